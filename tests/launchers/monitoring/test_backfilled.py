"""All panels, annotations, rules and alerts on a training with GPUs that never was: its samples are backfilled."""

import subprocess

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from metric_fixture import END, START, exposition
from monitoring_files import annotation_expressions, filled, panel_expressions, rule_expressions
from prometheus_programs import running_prometheus
from uml_dist.telemetry.table import METRICS

RECORDED = ":uml_"
EXPRESSIONS = [*panel_expressions(), *annotation_expressions(), *rule_expressions()]


@pytest.fixture(scope="module")
def server(programs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("backfilled")
    (folder / "metrics.txt").write_text(exposition())
    words = ["tsdb", "create-blocks-from", "openmetrics", "--quiet", folder / "metrics.txt", folder / "data"]
    done = subprocess.run([programs.promtool, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "prometheus.yml").write_text("{}\n")
    with running_prometheus(programs, folder / "prometheus.yml", folder / "data") as server:
        yield server


def test_promtool_accepts_the_names_and_help_of_all_metrics(programs):
    prometheus_client.disable_created_metrics()
    registry = CollectorRegistry()
    for metric in METRICS:
        kind = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}[metric.kind]
        declared = kind(metric.name, metric.help, metric.labels, registry=registry)
        if metric.labels:
            declared.labels(*metric.labels)
    words = [programs.promtool, "check", "metrics"]
    done = subprocess.run(words, input=generate_latest(registry).decode(), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Series that rules record are not in the backfilled data: those alerts are executed on real trainings.
@pytest.mark.parametrize(
    "expression", [one for one in EXPRESSIONS if RECORDED not in one.text], ids=lambda one: one.place
)
def test_an_expression_returns_data(server, expression):
    text = filled(expression.text)
    if expression.steps:
        found = server.query_range(text, START, END, 60)
        values = [float(value) for series in found for _, value in series["values"]]
    else:
        values = [float(sample["value"][1]) for sample in server.query(text, END)]
    assert any(value == value for value in values), text
