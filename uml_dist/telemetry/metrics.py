"""The metrics of a training rank: those of the table, updated with plain numbers."""

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from uml_shards.text import printable, shorten

from .table import metric

logger = logging.getLogger(__name__)

MAX_SERIES = 1000
"""Label values of a metric that get a series; further ones are not recorded. A validation of many classes has most."""

LABEL_LENGTH = 200
"""Longest value of a label, in characters; the middle of a longer one is left out."""

_KINDS = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}

_FROM_ZERO = (
    *("uml_steps_total", "uml_images_total", "uml_data_wait_seconds_total", "uml_nonfinite_steps_total"),
    *("uml_checkpoint_failures_total", "uml_checkpoint_blocked_seconds_total"),
)
"""Counters that are exported from the start, since Prometheus does not see an increase to a series' first value."""


class Metrics:
    """The metrics of one rank, in a separate registry so that a process can have several.

    Recording never raises: a metric that cannot be recorded is logged once, and training continues. A metric is absent
    from a scrape until it has a value.

    Args:
        run: name of the run folder.
        recipe: name of the recipe.
        stage: ZeRO stage.
        world_size: number of ranks.
        rank: index of this rank.
        device: "cuda" or "cpu".
        node: name of the machine.
        attempt: number of this start of the run, from 1.
        dataset: name of the data set of the first stream.
    """

    def __init__(
        self,
        *,
        run: str,
        recipe: str,
        stage: int,
        world_size: int,
        rank: int,
        device: str,
        node: str = "",
        attempt: int = 1,
        dataset: str = "",
    ) -> None:
        # Otherwise each counter exports a second series with its creation time.
        prometheus_client.disable_created_metrics()
        self.registry = CollectorRegistry()
        self._instruments: dict[str, Any] = {}
        self._series: dict[str, dict[tuple[str, ...], Any]] = {}
        self._warned: set[str] = set()
        place = {"run": run, "recipe": recipe, "stage": stage, "world_size": world_size, "rank": rank, "device": device}
        self._set("uml_run_info", 1.0, **place, node=node, attempt=attempt, dataset=dataset)
        self._set("uml_attempt", attempt)
        self._set("uml_start_timestamp_seconds", time.time())
        for name in _FROM_ZERO:
            self._add(name, 0)

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
        """Record the values that are read from the device every N steps; those of before are forgotten.

        Args:
            learning_rate: learning rate by network.
            loss: loss by term, including the total.
            grad_norm: gradient norm by network.
            vacuity: mean vacuity by level, "image" and "pixel".
        """
        self._replace("uml_learning_rate", "network", learning_rate)
        self._replace("uml_loss", "term", loss)
        self._replace("uml_grad_norm", "network", grad_norm)
        self._replace("uml_vacuity", "level", vacuity)

    def record_phases(self, seconds: Mapping[str, float]) -> None:
        """Record the seconds of spans by name, as `Spans.take` returns them; it limits the number of names."""
        for name, value in seconds.items():
            self._add("uml_phase_seconds_total", value, phase=name)

    def record_validation(self, metrics: Mapping[str, float]) -> None:
        """Record the metrics of a validation, by name."""
        for name, value in metrics.items():
            self._set("uml_validation", value, metric=name)

    def record_skipped(self, reason: str, count: int = 1) -> None:
        """Record samples that were replaced by placeholders; use few reasons, never a key or a file name."""
        self._add("uml_samples_skipped_total", count, reason=reason)

    def _replace(self, name: str, label: str, values: Mapping[str, float]) -> None:
        """Set a gauge with one label, and remove the values of the label that are not given."""
        series = self._series.get(name, {})
        for gone in series.keys() - {(_label(key),) for key in values}:
            del series[gone]
            self._instruments[name].remove(*gone)
        for key, value in values.items():
            self._set(name, value, **{label: key})

    def _set(self, name: str, value: float, **labels: object) -> None:
        """Set a gauge; NaN and infinity are shown as they are."""
        try:
            number = float(value)
            self._one(name, labels).set(number)
        except Exception as error:
            self._warn(name, error)

    def _add(self, name: str, value: float, **labels: object) -> None:
        """Add to a counter."""
        try:
            number = _countable(value)
            self._one(name, labels).inc(number)
        except Exception as error:
            self._warn(name, error)

    def _observe(self, name: str, value: float, **labels: object) -> None:
        """Observe a value in a histogram."""
        try:
            number = _countable(value)
            self._one(name, labels).observe(number)
        except Exception as error:
            self._warn(name, error)

    def _one(self, name: str, labels: Mapping[str, object]) -> Any:
        """Return the counter, gauge or histogram of a metric with label values; the first call begins its series."""
        cleaned = {label: _label(value) for label, value in labels.items()}
        series, values = self._series.setdefault(name, {}), tuple(cleaned.values())
        if values not in series:
            series[values] = self._begin(name, cleaned)
        return series[values]

    def _begin(self, name: str, labels: dict[str, str]) -> Any:
        """Begin a series of a metric, and export the metric if it is its first.

        Raises:
            ValueError: the metric has too many series.
        """
        if len(self._series[name]) >= MAX_SERIES:
            raise ValueError(f"it has {MAX_SERIES} series already, so none is added for {labels}")
        instrument = self._instruments.get(name)
        if instrument is None:
            entry = metric(name)
            options = {"buckets": entry.buckets} if entry.buckets else {}
            instrument = _KINDS[entry.kind](name, entry.help, entry.labels, registry=None, **options)
            self.registry.register(instrument)
            self._instruments[name] = instrument
        return instrument.labels(**labels) if labels else instrument

    def _warn(self, name: str, error: Exception) -> None:
        if name not in self._warned:
            self._warned.add(name)
            logger.warning("metric %s is not recorded: %s", name, error)


def _label(value: object) -> str:
    """Return a label value that any reader of the format accepts: without line breaks, NUL or lone surrogates."""
    return printable(shorten(str(value), LABEL_LENGTH))


def _countable(value: float) -> float:
    """Return the value; raise ValueError if it would corrupt a sum."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{value} cannot be counted")
    return value
