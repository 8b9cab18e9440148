"""The configuration and the rules: promtool accepts them, every alert is tested both ways, and has a runbook."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from monitoring_files import FOLDER, RULES, alerts

HERE = Path(__file__).parent
CASES = sorted(HERE.glob("rules_*.yml"))
RUNBOOKS = (FOLDER / "runbooks.md").read_text()


def promtool(programs, *words) -> str:
    done = subprocess.run([programs.promtool, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def section(anchor: str) -> str:
    """The section of the runbooks with a heading of this anchor."""
    parts = re.split(r"^## (.+)$", RUNBOOKS, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    return next(text for heading, text in found.items() if heading.lower() == anchor)


def test_promtool_accepts_the_configuration_and_the_rules(programs):
    assert "SUCCESS" in promtool(programs, "check", "config", FOLDER / "prometheus.yml")
    said = promtool(programs, "check", "rules", *sorted(RULES.glob("*.yml")))
    assert f"{len(alerts())} rules found" in said


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(programs, cases):
    assert "SUCCESS" in promtool(programs, "test", "rules", cases)


def test_every_alert_has_a_case_that_fires_and_one_that_stays_silent():
    fires, silent = set(), set()
    for path in CASES:
        for case in yaml.safe_load(path.read_text())["tests"]:
            outcomes = {(check["alertname"], bool(check["exp_alerts"])) for check in case["alert_rule_test"]}
            fired = {name for name, fired in outcomes if fired}
            fires |= fired
            silent |= {name for name, _ in outcomes} - fired
    assert fires == silent == set(alerts())


@pytest.mark.parametrize("name", alerts())
def test_an_alert_has_a_severity_and_a_runbook_that_says_what_to_do(name):
    alert = alerts()[name]
    assert alert["labels"]["severity"] in {"warning", "critical"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    path, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert path == "launchers/monitoring/runbooks.md"
    assert anchor == name.lower()
    for part in ("**Meaning.**", "**Look at.**", "**Do.**"):
        assert section(anchor).count(part) == 1, part


def test_runbooks_describe_no_other_alerts():
    headings = re.findall(r"^## (.+)$", RUNBOOKS, re.MULTILINE)
    assert headings == list(alerts())
