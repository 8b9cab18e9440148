"""Reads the measured step of a run: from its log, and from the last values that its ranks have exported."""

from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from ..errors import UmlError
from ..run.history import PRODUCTIVE
from ..run.reader import RunReader
from .model import Measured

UPDATE = ("seconds_optimizer", "seconds_average")


def read_measured(run: Path) -> Measured:
    """Return the median step of a run's last phase, without what was logged first, which contains the warm-up.

    Args:
        run: the run folder.

    Raises:
        UmlError: the folder has no run, too few logged steps, or no exported metrics.
    """
    logged = [record for record in RunReader(run).records() if {"loss", PRODUCTIVE, "images_per_second"} <= set(record)]
    steps, updates, samples = [], [], []
    for before, record in pairwise(logged):
        count, seconds = record["step"] - before["step"], record[PRODUCTIVE] - before[PRODUCTIVE]
        if record["phase"] == logged[-1]["phase"] and count > 0 and seconds > 0:
            steps.append(seconds / count)
            updates.append(sum(record.get(name, 0.0) for name in UPDATE) / count)
            samples.append(round(record["images_per_second"] * steps[-1]))
    if not steps:
        raise UmlError(f"run {run} has logged too few steps: train it for at least 3 * train.log_every steps")
    exported = _exported(run)
    ranks, stage = (int(exported["uml_run_info"][name]) for name in ("world_size", "stage"))
    peak = exported.get("uml_gpu_memory_peak_bytes")
    batch = max(round(median(samples)), 1)
    return Measured(ranks, batch, median(steps), median(updates), stage, None if peak is None else int(peak))


def _exported(run: Path) -> dict[str, Any]:
    """Return the labels of `uml_run_info` and the peak of GPU memory that rank 0 has exported last."""
    path = run / "metrics" / "rank-0.prom"
    found: dict[str, Any] = {}
    try:
        for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
            for sample in family.samples:
                if sample.name == "uml_run_info":
                    found[sample.name] = sample.labels
                elif sample.name == "uml_gpu_memory_peak_bytes":
                    found[sample.name] = sample.value
        labels = found["uml_run_info"]
        assert min(int(labels["world_size"]), int(labels["stage"]) + 1) >= 1
    except (OSError, ValueError, KeyError, AssertionError):
        raise UmlError(f"{path} does not state the ranks of run {run}: train it with metrics.enabled=true") from None
    return found
