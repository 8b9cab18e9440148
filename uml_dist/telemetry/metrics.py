"""The metrics of a training rank: those of the table, updated with plain numbers."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from uml_shards.errors import Reason
from uml_shards.tally import Kind

from .distributions import Distributions
from .table import label_value, metric

logger = logging.getLogger(__name__)

MAX_SERIES = 1000
"""Label values of a metric that get a series; further ones are not recorded. A validation of many classes has most."""

_KINDS = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}

_FROM_ZERO = (
    *("uml_steps_total", "uml_images_total", "uml_data_wait_seconds_total", "uml_nonfinite_steps_total"),
    *("uml_checkpoint_failures_total", "uml_checkpoint_blocked_seconds_total"),
    *("uml_shards_opened_total", "uml_shard_read_bytes_total"),
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
        for reason in get_args(Reason):
            self.record_skipped(reason, 0)
        self._distributions = Distributions()
        self.registry.register(self._distributions)

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

    def record_progress(self, step: int, steps: int) -> None:
        """Record how many of the run's steps are done."""
        self._set("uml_global_step", step)
        self._set("uml_planned_steps", steps)
        self._set("uml_progress_ratio", step / steps if steps else math.nan)

    def record_eta(self, seconds: float) -> None:
        """Record the seconds that the remaining steps will take."""
        self._set("uml_eta_seconds", seconds)

    def record_recipe_phase(self, current: str, names: Sequence[str]) -> None:
        """Record which phase of the recipe it is in, of all their names."""
        for name in names:
            self._set("uml_recipe_phase", float(name == current), name=name)

    def record_goodput(self, seconds: float, ratio: float) -> None:
        """Record productive seconds since the last call, and the share of all time that was productive so far."""
        self._add("uml_productive_seconds_total", seconds)
        self._set("uml_goodput_ratio", ratio)

    def record_updates(self, updated: Mapping[str, bool]) -> None:
        """Record for each network that should learn in a step whether it was updated."""
        for network, done in updated.items():
            self._add("uml_optimizer_steps_skipped_total", int(not done), network=network)

    def record_nonfinite_step(self) -> None:
        """Record a logging step with a loss or a gradient norm that is not finite."""
        self._add("uml_nonfinite_steps_total", 1)

    def record_opinions(self, level: str, bins: Sequence[float]) -> None:
        """Record the numbers of opinions by vacuity and strength, as `bin_opinions` returns them."""
        try:
            self._distributions.add(level, bins)
        except Exception as error:
            self._warn("uml_opinion_vacuity", error)

    def record_reading(self, counts: Mapping[Kind, int]) -> None:
        """Record what was read from shards since the last call, as `uml_shards.tally.take` returns it."""
        for kind, amount in counts.items():
            self._add(f"uml_{kind}_total", amount)

    def record_checkpoint(
        self, kind: Literal["save", "load"], seconds: float, saved: float | None, size: int | None
    ) -> None:
        """Record a checkpoint that was saved or loaded.

        Args:
            kind: which of both.
            seconds: duration, also of what was done in the background.
            saved: when it was complete, seconds since 1970 (UTC); None if that is unknown.
            size: bytes of its files; None if that is unknown.
        """
        self._observe("uml_checkpoint_seconds", seconds, kind=kind)
        if saved is not None:
            self._set("uml_checkpoint_last_success_timestamp_seconds", saved)
        if size is not None:
            self._set("uml_checkpoint_bytes", size)

    def record_blocked(self, seconds: float) -> None:
        """Record for how long training has waited for a checkpoint."""
        self._add("uml_checkpoint_blocked_seconds_total", seconds)

    def record_failed_save(self) -> None:
        """Record that a checkpoint could not be written."""
        self._add("uml_checkpoint_failures_total", 1)

    def record_build(self, versions: Mapping[str, str], driver: str = "") -> None:
        """Record the versions of software.

        Args:
            versions: by name of the package, and "python"; "" in the metric where one is missing.
            driver: version of the GPUs' driver; "" without one.
        """
        named = {"version": "uml-dist"} | {name: name for name in ("python", "torch", "deepspeed", "triton")}
        found = {label: versions.get(name, "") for label, name in named.items()}
        self._set("uml_build_info", 1.0, **found, driver=driver)

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
        for gone in series.keys() - {(label_value(key),) for key in values}:
            del series[gone]
            self._instruments[name].remove(*gone)
        for key, value in values.items():
            self._set(name, value, **{label: key})

    def _set(self, name: str, value: float, /, **labels: object) -> None:
        """Set a gauge; NaN and infinity are shown as they are."""
        try:
            number = float(value)
            self._one(name, labels).set(number)
        except Exception as error:
            self._warn(name, error)

    def _add(self, name: str, value: float, /, **labels: object) -> None:
        """Add to a counter."""
        try:
            number = _countable(value)
            self._one(name, labels).inc(number)
        except Exception as error:
            self._warn(name, error)

    def _observe(self, name: str, value: float, /, **labels: object) -> None:
        """Observe a value in a histogram."""
        try:
            number = _countable(value)
            self._one(name, labels).observe(number)
        except Exception as error:
            self._warn(name, error)

    def _one(self, name: str, labels: Mapping[str, object]) -> Any:
        """Return the counter, gauge or histogram of a metric with label values; the first call begins its series."""
        cleaned = {label: label_value(value) for label, value in labels.items()}
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


def _countable(value: float) -> float:
    """Return the value; raise ValueError if it would corrupt a sum."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{value} cannot be counted")
    return value
