"""The starts of a run, of which its folder keeps a line each: how often and since when it was started.

    starts.jsonl    {"attempt": 2, "step": 500, "time": 1760000000.125}

The seconds that counted are in metrics.jsonl, which loses the records of steps that a resume repeats.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from .reader import json_objects

STARTS = "starts.jsonl"

PRODUCTIVE = "productive_seconds"
"""Key of a training record: wall time in the steps up to it."""


@dataclass(frozen=True)
class History:
    """What happened in a run before this start.

    Attributes:
        attempt: number of this start, 1 for the first.
        began: when the run was first started, seconds since 1970 (UTC).
        productive: wall time in its steps since then, in seconds.
    """

    attempt: int
    began: float
    productive: float = 0.0


def read_history(run: Path, step: int, started: float) -> History:
    """Read the history of a run that continues after a step; lines that a kill or a full disk cut short are left out.

    Args:
        run: the run folder.
        step: step of the checkpoint from which it continues; 0 without one.
        started: when this start began, seconds since 1970 (UTC).
    """
    found = [
        (attempt, time)
        for record in json_objects(run / STARTS)
        if isinstance(attempt := record.get("attempt"), int) and _is_number(time := record.get("time"))
    ]
    if not found:
        return History(1, started)
    productive = 0.0
    for record in json_objects(run / "metrics.jsonl"):
        at, seconds = record.get("step"), record.get(PRODUCTIVE)
        if isinstance(at, int) and at <= step and _is_number(seconds):
            productive = float(seconds)
    return History(max(attempt for attempt, _ in found) + 1, float(found[0][1]), productive)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)
