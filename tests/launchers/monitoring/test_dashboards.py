"""The committed dashboards: they are what the code makes, follow dashboard-linter's rules, and name our metrics."""

import json
import re

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

import make_dashboards
from monitoring_files import (
    DASHBOARDS,
    Expression,
    annotation_expressions,
    dashboards,
    metric_names,
    panel_expressions,
    panels,
    rules,
)
from uml_dist.telemetry.table import METRICS

# Grafana's names of the units that we use, from its list of value formats.
UNITS = {
    *("none", "short", "percentunit", "bytes", "Bps", "flops", "celsius", "hertz", "watt", "joule", "s", "ops"),
}
# Options of the Prometheus plugin for annotations, which the SDK's type lacks.
PLUGIN_OPTIONS = ("titleFormat", "textFormat", "useValueForTime")
RANGE = re.compile(r"(\w+)\((uml_\w+)\{[^}]*\}\[([^\]]*)\]\)")
ALL = dashboards()
PANELS = [(name, panel) for name, dashboard in ALL.items() for panel in panels(dashboard)]


def title(value: object) -> str | None:
    return value["title"] if isinstance(value, dict) else None


def test_there_are_three_dashboards():
    assert set(ALL) == set(make_dashboards.DASHBOARDS)
    assert [ALL[name]["title"] for name in make_dashboards.DASHBOARDS] == [
        "Run overview",
        "Why is it slow",
        "Quality and uncertainty",
    ]
    assert len({dashboard["uid"] for dashboard in ALL.values()}) == 3


@pytest.mark.parametrize("name", ALL)
def test_making_a_dashboard_again_gives_the_committed_file(name):
    assert make_dashboards.rendered(name) == (DASHBOARDS / f"{name}.json").read_text()


@pytest.mark.parametrize("name", ALL)
def test_a_dashboard_has_only_fields_of_the_published_types(name):
    dashboard = dashboards()[name]
    for annotation in dashboard["annotations"]["list"]:
        for option in PLUGIN_OPTIONS:
            del annotation[option]
    read = Dashboard.from_json(json.loads(json.dumps(dashboard)))
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == dashboard


@pytest.mark.parametrize("name", ALL)
def test_a_dashboard_can_be_provisioned_but_not_edited(name):
    dashboard = ALL[name]
    assert dashboard["editable"] is False
    assert dashboard.get("id") is None
    assert "__inputs" not in dashboard
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("name", ALL)
def test_variables_choose_data_source_run_attempt_and_rank_and_follow_the_time(name):
    source, *others = ALL[name]["templating"]["list"]
    assert (source["type"], source["name"], source["label"]) == ("datasource", "datasource", "Data source")
    assert source["query"] == "prometheus"
    assert [variable["name"] for variable in others] == ["run", "attempt", "rank"]
    for variable in others:
        assert variable["refresh"] == 2
        assert (variable["multi"], variable["includeAll"]) == (True, True)
        assert variable["datasource"]["uid"] == "${datasource}"
        assert re.fullmatch(r"label_values\(uml_run_info(\{.*\})?, \w+\)", variable["query"])


@pytest.mark.parametrize("name", ALL)
def test_panels_fill_rows_without_overlap(name):
    taken = set()
    for panel in ALL[name]["panels"]:
        place = panel["gridPos"]
        cells = {
            (row, column)
            for row in range(place["y"], place["y"] + place["h"])
            for column in range(place["x"], place["x"] + place["w"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


@pytest.mark.parametrize(("name", "panel"), PANELS, ids=title)
def test_a_panel_has_title_description_unit_queries_and_the_chosen_data_source(name, panel):
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["targets"]
    for part in (panel, *panel["targets"]):
        assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    references = [target["refId"] for target in panel["targets"] if target["refId"]]
    assert len(set(references)) == len(panel["targets"])


@pytest.mark.parametrize("expression", panel_expressions(), ids=lambda one: one.place)
def test_a_query_selects_by_variables_and_uses_rates_rightly(expression):
    text = expression.text
    selectors = re.findall(r"\b(?:uml_\w+|ALERTS|up)\b(\{[^}]*\})?", text)
    assert selectors
    for selector in selectors:
        assert 'run=~"$run"' in selector, text
    rated = {(function, metric, window) for function, metric, window in RANGE.findall(text)}
    for function, _, window in rated:
        assert function in {"rate", "increase"}
        assert window == "$__rate_interval" or (function, window) == ("increase", "$__range")
    without_strings = re.sub(r'"[^"]*"', "", text)
    assert without_strings.count("[") == len(RANGE.findall(text)), "a range outside rate and increase"
    kinds = {metric.name: metric.kind for metric in METRICS}
    for name in re.findall(r"uml_\w+", text):
        assert kinds.get(name) != "counter" or name in {metric for _, metric, _ in rated}, text
        assert not name.endswith("_bucket") or "histogram_quantile" in text or "by (le)" in text or 'le="' in text


def test_annotations_mark_starts_checkpoints_and_validations():
    for dashboard in ALL.values():
        names = [annotation["name"] for annotation in dashboard["annotations"]["list"]]
        assert names == ["Starts and restarts", "Checkpoints", "Validations"]


def test_panels_and_alerts_name_all_metrics_of_the_registry_and_no_others():
    shown: set[str] = set()
    for expression in (*panel_expressions(), *annotation_expressions()):
        shown |= metric_names(expression.text)
    for rule in rules():
        shown |= metric_names(rule["expr"])
    assert shown == {metric.name for metric in METRICS}


def test_alerts_and_panels_name_only_series_that_rules_record():
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = [Expression("", rule["expr"]) for rule in rules()] + panel_expressions()
    for expression in used:
        assert set(re.findall(r"\b\w+:uml_\w+:\w+", expression.text)) <= recorded
