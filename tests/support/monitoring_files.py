"""What launchers/monitoring contains: the expressions of its dashboards and rules, and where each of them stands."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from uml_dist.telemetry.table import METRICS

FOLDER = Path(__file__).parents[2] / "launchers" / "monitoring"
DASHBOARDS = FOLDER / "grafana" / "dashboards"
RULES = FOLDER / "rules"

SELECTOR = re.compile(r"\{[^{}]*\}")
COMPARISON = re.compile(r"(==|!=|>=|<=|>|<)(?!\s*bool)")
NAME = re.compile(r"(?<![\w:])uml_[a-z0-9_]+")
VALUES = {
    "$__rate_interval": "1m",
    "$__range": "10m",
    "$__interval": "15s",
    "$run": ".*",
    "$attempt": ".*",
    "$rank": ".*",
}


class Expression(NamedTuple):
    """An expression and where it stands.

    Attributes:
        place: dashboard and panel, or alert.
        text: PromQL.
        steps: whether it is drawn over time.
    """

    place: str
    text: str
    steps: bool = False


def dashboards() -> dict[str, dict[str, Any]]:
    """Return the committed dashboards by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the panels of a dashboard, without its rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def panel_expressions() -> list[Expression]:
    """Return the queries of all panels, with the variables in them."""
    return [
        Expression(f"{name}: {panel['title']}", target["expr"], not target.get("instant"))
        for name, dashboard in dashboards().items()
        for panel in panels(dashboard)
        for target in panel["targets"]
    ]


def annotation_expressions() -> list[Expression]:
    """Return the queries of the annotations, each once."""
    found = {
        (annotation["name"], annotation["expr"])
        for dashboard in dashboards().values()
        for annotation in dashboard["annotations"]["list"]
    }
    return [Expression(f"annotation: {name}", expression, True) for name, expression in sorted(found)]


def rules() -> Iterator[dict[str, Any]]:
    """Return all rules: those that record and those that alert."""
    for path in sorted(RULES.glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def alerts() -> dict[str, dict[str, Any]]:
    """Return the alerts by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def rule_expressions() -> list[Expression]:
    """Return the expressions of all rules; those of alerts give a value whether or not the alert fires."""
    return [
        Expression(f"alert: {rule['alert']}", always(rule["expr"]))
        if "alert" in rule
        else Expression(f"recorded: {rule['record']}", rule["expr"])
        for rule in rules()
    ]


def always(condition: str) -> str:
    """Return an alert's condition with comparisons that say 0 or 1 instead of selecting series.

    It gives a value exactly if there is data on both sides of each comparison.
    """
    selectors = SELECTOR.findall(condition)
    bare = COMPARISON.sub(r"\1 bool", SELECTOR.sub("{}", condition))
    for selector in selectors:
        bare = bare.replace("{}", selector, 1)
    return bare


def filled(expression: str, **values: str) -> str:
    """Return an expression with values for Grafana's variables."""
    for name, value in (VALUES | {f"${key}": value for key, value in values.items()}).items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def metric_names(text: str) -> set[str]:
    """Return the names of our metrics in an expression, without the suffixes of a histogram's series."""
    histograms = {metric.name for metric in METRICS if metric.kind == "histogram"}
    found = set()
    for name in NAME.findall(text):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        found.add(base if base in histograms else name)
    return found
