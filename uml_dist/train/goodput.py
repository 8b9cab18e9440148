"""Goodput: the share of a run's time that went into steps that counted."""

import time
from collections.abc import Callable

from ..run.history import History


class Goodput:
    """Adds up the productive seconds of a run, which are those of its steps.

    Time before the first step, in validations and checkpoints, between two starts, and in steps that a resume repeats
    is not productive.

    Args:
        history: what happened before this start.
        started: when this start began, seconds since 1970 (UTC).
        clock: seconds that no change of the system's time affects.
    """

    def __init__(self, history: History, started: float, clock: Callable[[], float] = time.monotonic) -> None:
        # The system's time tells how long ago earlier starts were; it may have been set back since.
        self._before = max(started - history.began, 0.0)
        self._clock = clock
        self._start = clock()
        self.productive = history.productive

    def add(self, seconds: float) -> None:
        """Add the wall time of a step."""
        self.productive += seconds

    def ratio(self) -> float:
        """Return productive seconds divided by the time since the run first started, at most 1."""
        passed = self._before + self._clock() - self._start
        return min(self.productive / passed, 1.0) if passed > 0 else 0.0
