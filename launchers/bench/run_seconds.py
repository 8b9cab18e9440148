"""Reads from a run folder what the steps of its training spent their seconds on."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from uml_dist.run.reader import json_objects

PREFIX = "seconds_"
BETWEEN_STEPS = ("validation", "checkpoint")
"""Spans that are not part of a step."""


def seconds_by_record(run: Path) -> Iterator[tuple[int, Mapping[str, float]]]:
    """Yield (steps, seconds of each part) of every logging step of a run: all its steps since the one before.

    The seconds are those of rank 0, by the names of `uml_dist.telemetry.span`. Time is exclusive: nothing counts twice.
    """
    before = 0
    for record in json_objects(run / "metrics.jsonl"):
        parts = {name.removeprefix(PREFIX): value for name, value in record.items() if name.startswith(PREFIX)}
        step = record.get("step")
        if parts and isinstance(step, int) and step > before:
            yield step - before, {name: value for name, value in parts.items() if name not in BETWEEN_STEPS}
            before = step


def seconds_of_step(run: Path) -> float | None:
    """Return the mean seconds of a step, without validations and checkpoints; None if nothing was logged."""
    records = list(seconds_by_record(run))
    steps = sum(number for number, _ in records)
    return sum(sum(parts.values()) for _, parts in records) / steps if steps else None
