"""The table of all metrics that a training exports: names, types, labels and meanings, also in README.md beside it.

Metrics use base units (seconds, bytes, ratios from 0 to 1), every label has few values, and totals are separate
metrics. Rank and run are not labels of every metric, because each rank has its own exporter, whose target is labelled;
`uml_run_info` identifies the rank without these labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from uml_shards.text import printable, shorten

LABEL_LENGTH = 200
"""Longest value of a label, in characters; the middle of a longer one is left out."""

STEP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0)
"""From a compact network on a GPU (about 10 ms) to the paper's on a laptop (tens of seconds)."""

CHECKPOINT_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0)
"""From a compact network on a local disk to a large one on a busy network file system."""

VACUITIES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Finer near 0, where confident opinions are, and near 1, where opinions without evidence are."""

STRENGTHS = (2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 10000.0)
"""Without evidence, the strength is the number of classes."""


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


STEPS = (
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
    Metric("uml_last_step_timestamp_seconds", "gauge", "When the last step ended, seconds since 1970 (UTC)."),
)
"""Steps and what they spend their time on."""

PROGRESS = (
    Metric("uml_global_step", "gauge", "Optimiser steps of the run, those before a resume included."),
    Metric("uml_epoch", "gauge", "Epochs of the run, with a fraction."),
    Metric("uml_planned_steps", "gauge", "Optimiser steps of the whole run."),
    Metric("uml_progress_ratio", "gauge", "Share of the run's steps that is done, 0 to 1."),
    Metric("uml_eta_seconds", "gauge", "Time that the remaining steps take at the speed of those last logged."),
    Metric("uml_recipe_phase", "gauge", "1 for the current phase of the recipe, 0 for its others.", ("name",)),
    Metric("uml_attempt", "gauge", "Number of this start of the run, 1 for the first."),
    Metric("uml_start_timestamp_seconds", "gauge", "When this start of the run began, seconds since 1970 (UTC)."),
    Metric(
        "uml_productive_seconds_total",
        "counter",
        "Wall time in the run's steps, those before a resume included and those that a resume repeats left out.",
    ),
    Metric("uml_goodput_ratio", "gauge", "Productive seconds divided by the time since the run first started, 0 to 1."),
)
"""How far the run is, and how much of its time counted."""

LEARNING = (
    Metric("uml_loss", "gauge", "Loss terms at the last logged step; not a number where training diverged.", ("term",)),
    Metric("uml_learning_rate", "gauge", "Learning rate of the last step.", ("network",)),
    Metric("uml_grad_norm", "gauge", "Gradient norm before clipping at the last logged step.", ("network",)),
    Metric("uml_validation", "gauge", "Metrics of the last validation.", ("metric",)),
    Metric(
        "uml_nonfinite_steps_total",
        "counter",
        "Logging steps with a loss or a gradient norm that is not a finite number.",
    ),
    Metric(
        "uml_optimizer_steps_skipped_total",
        "counter",
        "Steps that left a network unchanged because its gradient was not finite.",
        ("network",),
    ),
)
"""What is learnt."""

OPINIONS = (
    Metric("uml_vacuity", "gauge", "Mean vacuity of opinions at the last logged step, 0 to 1.", ("level",)),
    Metric(
        "uml_opinion_vacuity",
        "histogram",
        "Vacuity of the opinions of logging steps, by images or pixels, 0 to 1.",
        ("level",),
        VACUITIES,
    ),
    Metric(
        "uml_opinion_strength",
        "histogram",
        "Dirichlet strength of the opinions of logging steps: the number of classes divided by the vacuity.",
        ("level",),
        STRENGTHS,
    ),
)
"""How certain the networks are."""

CHECKPOINTS = (
    Metric(
        "uml_checkpoint_seconds",
        "histogram",
        "Duration of a checkpoint's load, or of its save until it is on the disk, on the rank that writes.",
        ("kind",),
        CHECKPOINT_SECONDS,
    ),
    Metric("uml_checkpoint_blocked_seconds_total", "counter", "Time in which training waited for checkpoints."),
    Metric("uml_checkpoint_bytes", "gauge", "Size of the last saved checkpoint."),
    Metric(
        "uml_checkpoint_last_success_timestamp_seconds",
        "gauge",
        "When the run's last checkpoint was complete, seconds since 1970 (UTC).",
    ),
    Metric("uml_checkpoint_failures_total", "counter", "Checkpoints that could not be written."),
)

LOADING = (
    Metric("uml_samples_skipped_total", "counter", "Samples replaced by placeholders of zero weight.", ("reason",)),
    Metric("uml_shards_opened_total", "counter", "Shards opened by this rank's loaders."),
    Metric("uml_shard_read_bytes_total", "counter", "Bytes of samples read from shards by this rank's loaders."),
    Metric(
        "uml_cache_hits_total", "counter", "Look-ups of remote files, also ahead of their use, that the cache answered."
    ),
    Metric("uml_cache_misses_total", "counter", "Look-ups of remote files for which the cache had to fetch them."),
)
"""What is read."""

COMPUTING = (
    Metric("uml_flops_total", "counter", "Floating-point operations of this rank's forward and backward passes."),
    Metric("uml_peak_flops_per_second", "gauge", "Published dense peak of the device in the data type of training."),
    Metric("uml_mfu_ratio", "gauge", "Model FLOPs utilisation since the last logging step, 0 to 1."),
    Metric("uml_resident_memory_bytes", "gauge", "Resident memory of the rank's process."),
    Metric("uml_gpu_memory_allocated_bytes", "gauge", "GPU memory in tensors of this rank."),
    Metric("uml_gpu_memory_reserved_bytes", "gauge", "GPU memory that this rank's allocator holds."),
    Metric("uml_gpu_memory_peak_bytes", "gauge", "Largest GPU memory in tensors of this rank so far."),
    Metric("uml_disk_free_bytes", "gauge", "Free space for this user of the file system of a folder.", ("folder",)),
    Metric("uml_disk_size_bytes", "gauge", "Size of the file system of a folder.", ("folder",)),
)
"""What the rank uses."""

DEVICES = (
    Metric("uml_gpu_utilization_ratio", "gauge", "Share of time in which any kernel ran on the GPU, 0 to 1.", ("gpu",)),
    Metric("uml_gpu_memory_used_bytes", "gauge", "Memory of the GPU in use by all processes.", ("gpu",)),
    Metric("uml_gpu_memory_total_bytes", "gauge", "Memory of the GPU.", ("gpu",)),
    Metric("uml_gpu_power_watts", "gauge", "Power that the GPU draws.", ("gpu",)),
    Metric("uml_gpu_energy_joules_total", "counter", "Energy that the GPU drew since its driver was loaded.", ("gpu",)),
    Metric("uml_gpu_temperature_celsius", "gauge", "Temperature of the GPU.", ("gpu",)),
    Metric("uml_gpu_sm_clock_hertz", "gauge", "Clock of the GPU's multiprocessors.", ("gpu",)),
    Metric(
        "uml_gpu_throttled", "gauge", "1 if the GPU's clocks are lowered for a reason, 0 if not.", ("gpu", "reason")
    ),
    Metric(
        "uml_gpu_ecc_errors_total",
        "counter",
        "Memory errors of the GPU since its driver was loaded: corrected or uncorrected.",
        ("gpu", "kind"),
    ),
    Metric("uml_gpu_xid_errors_total", "counter", "Xid errors of the GPU since the exporter started.", ("gpu",)),
)
"""The GPU by its driver's library NVML; `gpu` is its UUID."""

IDENTITY = (
    Metric(
        "uml_run_info",
        "gauge",
        "Always 1; its labels say which run and rank this is.",
        ("run", "recipe", "stage", "world_size", "rank", "device", "node", "attempt", "dataset"),
    ),
    Metric(
        "uml_build_info",
        "gauge",
        "Always 1; its labels are versions of the software.",
        ("version", "python", "torch", "deepspeed", "triton", "driver"),
    ),
)

METRICS: tuple[Metric, ...] = (
    *(*STEPS, *PROGRESS, *LEARNING, *OPINIONS, *CHECKPOINTS, *LOADING, *COMPUTING, *DEVICES, *IDENTITY),
)
"""All metrics. One that has no value is absent from a scrape."""

_BY_NAME = {metric.name: metric for metric in METRICS}


def metric(name: str) -> Metric:
    """Return a metric of the table.

    Raises:
        KeyError: the table has none of this name.
    """
    return _BY_NAME[name]


def label_value(value: object) -> str:
    """Return a label value that every reader of the format accepts: without line breaks, NUL or lone surrogates."""
    return printable(shorten(str(value), LABEL_LENGTH))


def counter_family(name: str, values: Sequence[tuple[Sequence[str], float]]) -> CounterMetricFamily:
    """Return a counter of the table for a custom collector.

    Args:
        name: its name, with `_total`.
        values: values of its labels, in their order, and of the counter.
    """
    entry = metric(name)
    family = CounterMetricFamily(entry.name, entry.help, labels=entry.labels)
    for labels, value in values:
        family.add_metric([*map(label_value, labels)], value)
    return family


def gauge_family(name: str, values: Sequence[tuple[Sequence[str], float]]) -> GaugeMetricFamily:
    """Return a gauge of the table for a custom collector; see `counter_family`."""
    entry = metric(name)
    family = GaugeMetricFamily(entry.name, entry.help, labels=entry.labels)
    for labels, value in values:
        family.add_metric([*map(label_value, labels)], value)
    return family
