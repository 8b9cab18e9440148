"""Exported metrics match the table; recording counts, shows diverged values, and never raises."""

import logging
import math

import pytest
from prometheus_client import generate_latest

from uml_dist.telemetry import Metrics


def metrics(**changes) -> Metrics:
    return Metrics(**{"run": "r1", "recipe": "uml", "stage": 2, "world_size": 4, "rank": 1, "device": "cpu", **changes})


def record(metric: Metrics, **changes) -> None:
    step = {"step": 12, "epoch": 1.5, "images": 8, "seconds": 0.3, "data_wait_seconds": 0.05}
    metric.record_step(**{**step, **changes})


def record_log(metric: Metrics, **changes) -> None:
    metric.record_log(**{"learning_rate": {}, "loss": {}, "grad_norm": {}, "vacuity": {}, **changes})


def value(of: Metrics, name: str, **labels: str) -> float | None:
    return of.registry.get_sample_value(name, labels)


def test_step_updates_the_values():
    one = metrics()
    record(one)
    record_log(
        one,
        loss={"cls": 0.2, "total": 0.7},
        learning_rate={"network": 1e-3},
        grad_norm={"network": 2.0},
        vacuity={"image": 0.25, "pixel": 0.5},
    )
    record(one, step=13, images=6, seconds=0.7)
    assert value(one, "uml_steps_total") == 2
    assert value(one, "uml_images_total") == 14
    assert value(one, "uml_step_seconds_count") == 2
    assert value(one, "uml_step_seconds_sum") == pytest.approx(1.0)
    assert value(one, "uml_step_seconds_bucket", le="0.5") == 1
    assert value(one, "uml_data_wait_seconds_total") == pytest.approx(0.1)
    assert value(one, "uml_global_step") == 13
    assert value(one, "uml_epoch") == 1.5
    assert value(one, "uml_loss", term="total") == 0.7
    assert value(one, "uml_learning_rate", network="network") == 1e-3
    assert value(one, "uml_grad_norm", network="network") == 2.0
    assert value(one, "uml_vacuity", level="pixel") == 0.5
    assert (value(one, "uml_last_step_timestamp_seconds") or 0) > 1.7e9


def test_validation_and_skipped_samples_are_recorded_by_name():
    one = metrics()
    one.record_validation({"dice": 0.8, "accuracy": 0.9})
    one.record_skipped("decode")
    one.record_skipped("decode", 2)
    assert value(one, "uml_validation", metric="dice") == 0.8
    assert value(one, "uml_samples_skipped_total", reason="decode") == 3


def test_seconds_of_phases_are_summed_by_name():
    one = metrics()
    one.record_phases({"forward": 1.5, "data": 0.25})
    one.record_phases({"forward": 0.5})
    assert value(one, "uml_phase_seconds_total", phase="forward") == 2.0
    assert value(one, "uml_phase_seconds_total", phase="data") == 0.25


def test_run_is_described_by_the_labels_of_one_series():
    rank = {"run": "r1", "recipe": "uml", "stage": "2", "world_size": "4", "rank": "1", "device": "cpu"}
    named = {"node": "one", "attempt": "3", "dataset": "isic"}
    assert value(metrics(node="one", attempt=3, dataset="isic"), "uml_run_info", **rank, **named) == 1


def test_values_of_a_logged_step_replace_those_of_the_one_before():
    one = metrics()
    record_log(one, loss={"generator": 0.5, "total": 0.7}, vacuity={"image": 0.2})
    record_log(one, loss={"total": 0.6})
    assert value(one, "uml_loss", term="total") == 0.6
    assert value(one, "uml_loss", term="generator") is None
    assert value(one, "uml_vacuity", level="image") is None


def test_metrics_without_a_value_are_absent():
    one = metrics()
    before = generate_latest(one.registry).decode()
    assert "uml_steps_total 0.0\n" in before, "a counter that is known to be 0 has a value"
    for absent in ("uml_step_seconds", "uml_eta_seconds", "uml_loss", "uml_checkpoint_bytes", "uml_gpu_power_watts"):
        assert absent not in before
    one.record_validation({"dice": "none"})  # type: ignore[dict-item]
    assert "uml_validation" not in generate_latest(one.registry).decode()


def test_two_instances_are_independent():
    one, other = metrics(), metrics(rank=2)
    record(one)
    assert value(other, "uml_steps_total") == 0


def test_diverged_loss_is_shown_and_counters_are_not_corrupted(caplog: pytest.LogCaptureFixture):
    one = metrics()
    record(one)
    record_log(one, loss={"total": math.nan}, grad_norm={"network": math.inf})
    with caplog.at_level(logging.WARNING):
        for bad in (math.nan, math.inf, -1.0, None, "many"):
            record(one, images=bad, seconds=bad)
            one.record_skipped("decode", bad)
            one.record_validation({"dice": bad})
    assert math.isnan(value(one, "uml_loss", term="total") or 0.0)
    assert value(one, "uml_images_total") == 8
    assert value(one, "uml_step_seconds_sum") == pytest.approx(0.3)
    names = [entry.getMessage().split()[1] for entry in caplog.records]
    assert sorted(names) == ["uml_images_total", "uml_samples_skipped_total", "uml_step_seconds", "uml_validation"]
