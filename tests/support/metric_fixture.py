"""A training of two ranks with two GPUs that never was: all metrics of the table over time, in OpenMetrics' format."""

import math
from collections.abc import Iterator
from itertools import product

from uml_dist.telemetry.table import METRICS, Metric

START = 1_767_225_600
"""1 January 2026, a beginning of Prometheus's blocks of two hours."""

STEP = 15
SAMPLES = 121
END = START + STEP * (SAMPLES - 1)
RANKS = 2

LABELS: dict[str, tuple[str, ...]] = {
    "phase": ("data", "host_to_device", "counts", "forward", "loss", "backward", "optimizer", "checkpoint"),
    "term": ("loss", "cls", "seg"),
    "network": ("model",),
    "level": ("image", "pixel"),
    "metric": ("dice", "auroc", "image_ece", "loss", "pixel_error_auroc_vacuity", "image_augrc_vacuity"),
    "name": ("lesions", "grades"),
    "folder": ("run", "cache"),
    "gpu": ("GPU-5b0d1a3c-0000-4000-8000-000000000001",),
    "run": ("fixture",),
    "recipe": ("uml",),
    "stage": ("2",),
    "world_size": ("2",),
    "device": ("cuda",),
    "dataset": ("isic2017",),
    "node": ("gpu-node",),
    "attempt": ("1",),
    **{name: ("1.0",) for name in ("version", "python", "torch", "deepspeed", "triton", "driver")},
}
"""Values of labels of the metrics; a label with other values in some metrics is in `OF_METRIC`."""

OF_METRIC: dict[tuple[str, str], tuple[str, ...]] = {
    ("uml_checkpoint_seconds", "kind"): ("save", "load"),
    ("uml_gpu_ecc_errors_total", "kind"): ("corrected", "uncorrected"),
    ("uml_samples_skipped_total", "reason"): ("decode", "checksum"),
    ("uml_gpu_throttled", "reason"): ("idle", "sw_thermal_slowdown"),
}

GAUGES = {
    "uml_gpu_utilization_ratio": 0.93,
    "uml_gpu_memory_used_bytes": 61e9,
    "uml_gpu_memory_total_bytes": 141e9,
    "uml_gpu_power_watts": 540.0,
    "uml_gpu_temperature_celsius": 64.0,
    "uml_gpu_sm_clock_hertz": 1.83e9,
    "uml_gpu_throttled": 1.0,
    "uml_disk_free_bytes": 3e11,
    "uml_disk_size_bytes": 1e12,
    "uml_peak_flops_per_second": 989e12,
}
"""Values of gauges other than 0.5."""


def exposition() -> str:
    """Return the samples of all metrics, and whether Prometheus reaches the ranks."""
    lines: list[str] = []
    for metric in METRICS:
        family = metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name
        lines += [f"# HELP {family} {metric.help}", f"# TYPE {family} {metric.kind}"]
        for rank in range(RANKS):
            for labels in _label_sets(metric, rank):
                lines += _series(metric, labels, rank)
    lines.append("# TYPE up gauge")
    for rank in range(RANKS):
        labels = 'job="uml",' + _target(rank)
        lines += [f"up{{{labels}}} 1 {START + STEP * number}" for number in range(SAMPLES)]
    return "\n".join([*lines, "# EOF", ""])


def _target(rank: int) -> str:
    return f'run="fixture",node="gpu-node",attempt="1",rank="{rank}"'


def _label_sets(metric: Metric, rank: int) -> Iterator[str]:
    """Return the labels of each series of a metric: those of the target and its own."""
    own = [name for name in metric.labels if name not in ("run", "node", "attempt", "rank")]
    for values in product(*(OF_METRIC.get((metric.name, name)) or LABELS[name] for name in own)):
        pairs = [f'{name}="{value}"' for name, value in zip(own, values, strict=True)]
        yield ",".join([_target(rank), *pairs])


def _series(metric: Metric, labels: str, rank: int) -> Iterator[str]:
    for number in range(SAMPLES):
        time = START + STEP * number
        if metric.kind == "counter":
            yield f"{metric.name}{{{labels}}} {number * (1 + rank)} {time}"
        elif metric.name.endswith("timestamp_seconds"):
            # A start at the beginning, steps all the time, and a checkpoint every five minutes.
            value = START if "start" in metric.name else time if "step" in metric.name else time - time % 300
            yield f"{metric.name}{{{labels}}} {value} {time}"
        elif metric.kind == "gauge":
            wave = 1 + 0.01 * math.sin(number // 20) if metric.name == "uml_validation" else 1
            yield f"{metric.name}{{{labels}}} {GAUGES.get(metric.name, 0.5) * wave:.6g} {time}"
        else:
            bounds = [*(f"{bound}" for bound in metric.buckets), "+Inf"]
            for index, bound in enumerate(bounds, 1):
                yield f'{metric.name}_bucket{{{labels},le="{bound}"}} {number * index} {time}'
            yield f"{metric.name}_count{{{labels}}} {number * len(bounds)} {time}"
            yield f"{metric.name}_sum{{{labels}}} {number * 2.0} {time}"
