"""The table in the code, the table in the document, and what a rank exports are the same."""

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition, parser
from prometheus_client.parser import text_string_to_metric_families

from prometheus_programs import prometheus_programs
from uml_dist.telemetry import METRICS, Metrics
from uml_dist.telemetry.metrics import MAX_SERIES
from uml_dist.telemetry.table import (
    COMPUTING,
    DEVICES,
    LABEL_LENGTH,
    STRENGTHS,
    VACUITIES,
    counter_family,
    gauge_family,
    label_value,
)
from uml_shards.tally import Kind

README = Path(__file__).parents[3] / "uml_dist" / "telemetry" / "README.md"

UNITS = {
    "_timestamp_seconds": "seconds since 1970 (UTC)",
    "_seconds": "seconds",
    "_bytes": "bytes",
    "_ratio": "ratio, 0 to 1",
    "_watts": "watts",
    "_joules": "joules",
    "_celsius": "degrees Celsius",
    "_hertz": "hertz",
    "_flops": "operations",
    "_per_second": "operations per second",
}

NAMES = st.text(min_size=1, max_size=40) | st.sampled_from(
    ['a"b', "a\\", "a\numl_loss 5", "a}", "\udcff", "\0", "\u2028"]
)


def recorded(name: str = "name", metrics: Metrics | None = None) -> Metrics:
    """Return metrics in which everything is recorded, with a name of others wherever there may be one."""
    if metrics is None:
        one = {"run": name, "recipe": name, "stage": 1, "world_size": 2, "rank": 0, "device": "cpu"}
        metrics = Metrics(**one, node=name, attempt=2, dataset=name)
    metrics.record_step(step=3, epoch=0.5, images=8, seconds=0.5, data_wait_seconds=0.1)
    metrics.record_progress(3, 10)
    metrics.record_eta(3.5)
    metrics.record_recipe_phase(name, [name, "other"])
    metrics.record_goodput(1.5, 0.25)
    metrics.record_updates({name: False})
    metrics.record_nonfinite_step()
    metrics.record_log(learning_rate={name: 0.1}, loss={name: 0.2}, grad_norm={name: 0.3}, vacuity={name: 0.4})
    metrics.record_phases({name: 0.5})
    metrics.record_validation({name: 0.6})
    metrics.record_skipped(name)
    metrics.record_opinions(name, [1.0] * (len(VACUITIES) + len(STRENGTHS) + 3))
    metrics.record_reading(dict.fromkeys(Kind.__args__, 2))
    metrics.record_checkpoint("save", 0.5, 1.8e9, 1000)
    metrics.record_build({"python": name, "torch": name}, name)
    return metrics


def families(metrics: Metrics) -> dict:
    """Return the exported metrics by full name, as Prometheus reads them."""
    text = generate_latest(metrics.registry).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        found[family.name + ("_total" if family.type == "counter" else "")] = family
    return found


def documented() -> dict[str, list[str]]:
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| `uml_")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert len({one[0] for one in cells}) == len(cells)
    return {name.strip("`"): others for name, *others in cells}


def test_the_document_has_the_table():
    found = documented()
    assert list(found) == [metric.name for metric in METRICS]
    for metric in METRICS:
        kind, labels, unit, meaning = found[metric.name]
        assert (kind, meaning) == (metric.kind, metric.help)
        assert re.findall(r"`(\w+)`", labels) == [*metric.labels]
        suffix = next((end for end in UNITS if metric.name.removesuffix("_total").endswith(end)), None)
        assert unit == UNITS[suffix] if suffix else unit not in UNITS.values()


def test_a_rank_exports_the_metrics_of_the_table_with_their_labels():
    found = families(recorded())
    own = {metric.name: metric for metric in METRICS if metric not in (*COMPUTING, *DEVICES)}
    assert found.keys() == own.keys()
    for name, family in found.items():
        metric = own[name]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        labels = {tuple(sorted(sample.labels.keys() - {"le"})) for sample in family.samples}
        assert labels == {tuple(sorted(metric.labels))}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric):
    assert re.fullmatch(r"uml(_[a-z]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert metric.help.endswith(".")
    assert "|" not in metric.help
    unbounded = {"step", "epoch", "key", "file", "position"}
    assert not unbounded & set(metric.labels)
    assert metric.name == "uml_run_info" or not {"run", "rank", "node", "attempt"} & set(metric.labels)


@settings(deadline=None, max_examples=30)
@given(NAMES)
@example("\ud800" * 300)
def test_names_of_others_break_no_line(name):
    metrics = recorded(name)
    lines = generate_latest(metrics.registry).decode().split("\n")
    assert all(re.match(r"# (HELP|TYPE) uml_|uml_[a-z_]+(\{.*\})? [^ ]+$|$", line) for line in lines)
    # What Prometheus asks for first.
    opened = exposition.generate_latest(metrics.registry).decode()
    assert {family.name for family in parser.text_string_to_metric_families(opened)} >= {"uml_loss", "uml_run_info"}
    hostile = families(metrics)
    assert hostile.keys() == families(recorded()).keys()
    [loss] = hostile["uml_loss"].samples
    assert (loss.labels, loss.value) == ({"term": label_value(name)}, 0.2)
    [run] = hostile["uml_run_info"].samples
    assert {run.labels[label] for label in ("run", "recipe", "node", "dataset")} == {label_value(name)}


@given(st.text(max_size=3 * LABEL_LENGTH))
def test_label_values_are_printable_and_bounded(text):
    value = label_value(text)
    assert value.isprintable()
    value.encode()
    assert value == text or not text.isprintable() or len(text) > LABEL_LENGTH
    assert len(label_value("x" * 10_000)) == LABEL_LENGTH


def test_families_of_collectors_are_cleaned_too():
    family = counter_family("uml_gpu_ecc_errors_total", [(("GPU-1\n", "corrected"), 2.0)])
    assert family.samples[0].labels == {"gpu": "GPU-1\\n", "kind": "corrected"}
    assert gauge_family("uml_resident_memory_bytes", [((), 5.0)]).samples[0].value == 5.0
    with pytest.raises(KeyError):
        gauge_family("uml_invented", [])


def test_series_of_a_metric_are_bounded(caplog):
    metrics = recorded()
    for number in range(MAX_SERIES + 200):
        metrics.record_validation({f"metric {number}": 0.5})
        metrics.record_skipped(f"reason {number}")
    found = families(metrics)
    assert len(found["uml_validation"].samples) == len(found["uml_samples_skipped_total"].samples) == MAX_SERIES
    assert len([line for line in caplog.messages if "1000 series" in line]) == 2, "once for each metric"


def test_promtool_accepts_what_is_exported():
    text = generate_latest(recorded('hostile"\\\nname').registry)
    promtool = prometheus_programs().promtool
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
