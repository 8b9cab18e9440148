"""Whether a rank still takes steps: what `/health` answers, without a clock that can be set."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median

PAUSES = ("validation", "checkpoint")
"""Spans in which no step is expected for a while."""

RECENT_STEPS = 100
"""Steps by which the usual time of a step is judged."""

SLOWER = 10.0
"""How many times longer than usual a step, or a pause, takes when something is wrong."""

STEP_SECONDS = 60.0
"""A step that takes less is never late: reading from a busy server, or compiling a kernel, may take as long."""

PAUSE_SECONDS = 1800.0
"""How long the first step, a validation and a checkpoint may take, whatever the earlier ones took."""


class Health:
    """Watches the steps of a rank. One thread calls `step`, any thread calls `check`.

    Args:
        clock: returns the time in seconds, which only increases.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._spans: Callable[[], Sequence[str]] = tuple
        self._clock = clock
        self._last = clock()
        self._step: int | None = None
        self._recent: deque[float] = deque(maxlen=RECENT_STEPS)
        self._longest = 0.0

    def watch(self, spans: Callable[[], Sequence[str]]) -> None:
        """Tell pauses from stalls by the open spans.

        Args:
            spans: returns the names of the spans that are open, the outermost first.
        """
        self._spans = spans

    def step(self, step: int) -> None:
        """Note that a step has ended.

        Args:
            step: steps of the run so far.
        """
        now = self._clock()
        if self._step is not None:  # the first one takes longer
            self._recent.append(now - self._last)
            self._longest = max(self._longest, now - self._last)
        self._last, self._step = now, step

    def check(self) -> tuple[bool, str]:
        """Return whether the rank does what it should, and a line that says what it does."""
        passed = self._clock() - self._last
        if self._step is None:
            return passed <= PAUSE_SECONDS, f"starting: no step yet, after {passed:.1f} s"
        doing = next((name for name in self._spans() if name in PAUSES), None)
        if doing:
            line = f"{doing}: step {self._step} ended {passed:.1f} s ago"
            return passed <= max(PAUSE_SECONDS, SLOWER * self._longest), line
        recent = tuple(self._recent)
        usual = median(recent) if recent else 0.0
        if passed <= max(STEP_SECONDS, SLOWER * usual):
            return True, f"training: step {self._step} ended {passed:.1f} s ago"
        return False, f"stalled: step {self._step} ended {passed:.1f} s ago, while a step takes {usual:.1f} s"
