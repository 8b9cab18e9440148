"""The metrics of a training rank, declared in one table and updated with plain numbers.

Metrics use base units (seconds, images), every label has few values, and totals are separate metrics. Rank and run are
not labels of every metric, because each rank has its own exporter; `uml_run_info` identifies it.
"""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

logger = logging.getLogger(__name__)

# From a compact network on a GPU (about 10 ms) to the paper's on a laptop (tens of seconds), in factors of 2 to 2.5.
STEP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0)


@dataclass(frozen=True)
class Metric:
    """An exported metric.

    Attributes:
        name: full name, including the unit, and `_total` for counters.
        kind: Prometheus type.
        help: description in one sentence.
        labels: names of the labels.
        buckets: upper bounds of a histogram, in the unit of the name.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


METRICS = (
    Metric("uml_steps_total", "counter", "Optimiser steps taken since the process started."),
    Metric("uml_images_total", "counter", "Images trained on by this rank since the process started."),
    Metric("uml_step_seconds", "histogram", "Wall time of an optimiser step, data wait included.", (), STEP_SECONDS),
    Metric("uml_data_wait_seconds_total", "counter", "Time in which the step waited for data."),
    Metric(
        "uml_phase_seconds_total",
        "counter",
        "Time in each part of the training loop, without the parts inside it; read at logging steps.",
        ("phase",),
    ),
    Metric("uml_samples_skipped_total", "counter", "Samples replaced by placeholders of zero weight.", ("reason",)),
    Metric("uml_loss", "gauge", "Loss terms at the last logged step; not a number where training diverged.", ("term",)),
    Metric("uml_learning_rate", "gauge", "Learning rate of the last step.", ("network",)),
    Metric("uml_grad_norm", "gauge", "Gradient norm before clipping at the last logged step.", ("network",)),
    Metric("uml_vacuity", "gauge", "Mean vacuity of opinions at the last logged step, 0 to 1.", ("level",)),
    Metric("uml_validation", "gauge", "Metrics of the last validation.", ("metric",)),
    Metric("uml_global_step", "gauge", "Optimiser steps of the run, those before a resume included."),
    Metric("uml_epoch", "gauge", "Epochs of the run, with a fraction."),
    Metric("uml_last_step_timestamp_seconds", "gauge", "When the last step ended, seconds since 1970 (UTC)."),
    Metric(
        "uml_run_info",
        "gauge",
        "Always 1; its labels say which run and rank this is.",
        ("run", "recipe", "stage", "world_size", "rank", "device"),
    ),
)


class Metrics:
    """The metrics of one rank, in a separate registry so that a process can have several.

    Recording never raises: a metric that cannot be recorded is logged once, and training continues.

    Args:
        run: name of the run folder.
        recipe: name of the recipe.
        stage: ZeRO stage.
        world_size: number of ranks.
        rank: index of this rank.
        device: "cuda" or "cpu".
    """

    def __init__(self, *, run: str, recipe: str, stage: int, world_size: int, rank: int, device: str) -> None:
        # Otherwise each counter exports a second series with its creation time.
        prometheus_client.disable_created_metrics()
        self.registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in METRICS:
            self._declare(metric)
        self._warned: set[str] = set()
        information = {"run": run, "recipe": recipe, "stage": stage, "world_size": world_size, "rank": rank}
        self._set("uml_run_info", 1.0, **information, device=device)

    def record_step(self, *, step: int, epoch: float, images: int, seconds: float, data_wait_seconds: float) -> None:
        """Record an optimiser step, using only values that need no synchronisation with the device.

        Args:
            step: steps of the run so far, including this one.
            epoch: epochs of the run so far.
            images: images that this rank trained on in the step.
            seconds: duration of the step.
            data_wait_seconds: part of the duration spent waiting for data.
        """
        self._add("uml_steps_total", 1)
        self._add("uml_images_total", images)
        self._observe("uml_step_seconds", seconds)
        self._add("uml_data_wait_seconds_total", data_wait_seconds)
        self._set("uml_global_step", step)
        self._set("uml_epoch", epoch)
        self._set("uml_last_step_timestamp_seconds", time.time())

    def record_log(
        self,
        *,
        learning_rate: Mapping[str, float],
        loss: Mapping[str, float],
        grad_norm: Mapping[str, float],
        vacuity: Mapping[str, float],
    ) -> None:
        """Record the values that are read from the device every N steps.

        Args:
            learning_rate: learning rate by network.
            loss: loss by term, including the total.
            grad_norm: gradient norm by network.
            vacuity: mean vacuity by level, "image" and "pixel".
        """
        self._set_each("uml_learning_rate", "network", learning_rate)
        self._set_each("uml_loss", "term", loss)
        self._set_each("uml_grad_norm", "network", grad_norm)
        self._set_each("uml_vacuity", "level", vacuity)

    def record_phases(self, seconds: Mapping[str, float]) -> None:
        """Record the seconds of spans by name, as `Spans.take` returns them; it limits the number of names."""
        for name, value in seconds.items():
            self._add("uml_phase_seconds_total", value, phase=name)

    def record_validation(self, metrics: Mapping[str, float]) -> None:
        """Record the metrics of a validation, by name."""
        self._set_each("uml_validation", "metric", metrics)

    def record_skipped(self, reason: str, count: int = 1) -> None:
        """Record samples that were replaced by placeholders; use few reasons, never a key or a file name."""
        self._add("uml_samples_skipped_total", count, reason=reason)

    def _declare(self, metric: Metric) -> None:
        declaration = (metric.name, metric.help, metric.labels)
        if metric.kind == "counter":
            self._counters[metric.name] = Counter(*declaration, registry=self.registry)
        elif metric.kind == "gauge":
            self._gauges[metric.name] = Gauge(*declaration, registry=self.registry)
        else:
            histogram = Histogram(*declaration, buckets=metric.buckets, registry=self.registry)
            self._histograms[metric.name] = histogram

    def _set_each(self, name: str, label: str, values: Mapping[str, float] | None) -> None:
        for key, value in (values or {}).items():
            self._set(name, value, **{label: key})

    def _set(self, name: str, value: float, **labels: object) -> None:
        """Set a gauge; NaN and infinity are shown as they are."""
        try:
            gauge = self._gauges[name]
            (gauge.labels(**labels) if labels else gauge).set(float(value))
        except Exception as error:
            self._warn(name, error)

    def _add(self, name: str, value: float, **labels: object) -> None:
        """Add to a counter."""
        try:
            counter = self._counters[name]
            (counter.labels(**labels) if labels else counter).inc(_countable(value))
        except Exception as error:
            self._warn(name, error)

    def _observe(self, name: str, value: float) -> None:
        """Observe a value in a histogram."""
        try:
            self._histograms[name].observe(_countable(value))
        except Exception as error:
            self._warn(name, error)

    def _warn(self, name: str, error: Exception) -> None:
        if name not in self._warned:
            self._warned.add(name)
            logger.warning("metric %s is not recorded: %s", name, error)


def _countable(value: float) -> float:
    """Return the value; raise ValueError if it would corrupt a sum."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{value} cannot be counted")
    return value
