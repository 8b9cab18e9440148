"""The doctor as a command."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "launchers" / "doctor.py"
FOREIGN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "UML_WORLD_STARTED", "SLURM_STEP_NUM_TASKS", "PYTHONPATH")


def apart() -> tuple[str, ...]:
    """Return a prefix that runs a command in a network namespace without a loopback; empty if not permitted."""
    command = ("unshare", "--map-root-user", "--net")
    allowed = shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if allowed else ()


APART = apart()


def doctor(
    folder: Path, *words: str, before: tuple[str, ...] = (), options: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the doctor in a folder, without environment variables that a launcher or a shell may have left."""
    clean = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    command = [*before, sys.executable, *options, str(SCRIPT), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=clean | environment)


def test_table_has_one_line_per_check_and_its_marks_determine_the_exit_code(tmp_path):
    done = doctor(tmp_path)
    *lines, empty, verdict = done.stdout.splitlines()
    checks = [line for line in lines if not line.lstrip().startswith("->")]
    problems = [line for line in checks if line.startswith("PROBLEM")]
    # The machine that runs these tests may be short of space, but has no other problem.
    assert {line.split()[1] for line in problems} <= {"disk", "memory", "shared"}
    assert (done.returncode, done.stderr, empty) == (2 if problems else 0, "", "")
    assert ("this machine can train" in verdict) == (not problems)
    assert {line.split()[0] for line in checks} <= {"ok", "note", "PROBLEM"}
    # A name server may not respond.
    assert [line for line in checks if "could not be checked" in line and "host name" not in line] == []
    assert list(tmp_path.iterdir()) == []  # nothing is left in the working directory


def test_json_has_all_findings_and_every_problem_has_a_remedy(tmp_path):
    (tmp_path / "run").touch()
    done = doctor(tmp_path, "--json", "--run", "run", RANK="0", WORLD_SIZE="2", LOCAL_RANK="0")
    assert done.returncode == 2
    findings = json.loads(done.stdout)
    assert all(set(one) == {"name", "state", "says", "todo"} for one in findings)
    assert len({one["name"] for one in findings}) == len(findings)
    problems = {one["name"]: one["todo"] for one in findings if one["state"] == "problem"}
    assert {"launch variables", "run folder"} <= set(problems)
    assert all(problems.values())
    assert (tmp_path / "run").is_file()


@pytest.mark.skipif(not APART, reason="no network namespaces for users here")
def test_missing_loopback_interface_is_a_problem(tmp_path):
    done = doctor(tmp_path, "--json", before=APART)
    (found,) = [one for one in json.loads(done.stdout) if one["name"] == "loopback"]
    assert (found["state"], "no connection through" in found["says"]) == ("problem", True)
    assert (done.returncode, done.stderr) == (2, "")


def test_check_that_fails_is_a_note_with_a_traceback_on_request(tmp_path):
    (tmp_path / "status.json").write_text("{")
    done = doctor(tmp_path, "--json", "--debug", "--run", str(tmp_path))
    (run,) = [one for one in json.loads(done.stdout) if one["name"] == "run"]
    assert (run["state"], "could not be checked: ValueError" in run["says"]) == ("note", True)
    assert "Traceback" in done.stderr


def test_missing_project_is_one_line_and_exit_code_2(tmp_path):
    done = doctor(tmp_path, options=("-S",))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "make install" in done.stderr
