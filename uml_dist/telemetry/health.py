"""Whether a rank still takes steps: what `/health` answers, without a clock that can be set."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

    def doing(self) -> "Doing":
        """Return what the rank does now."""
        passed, step = self._clock() - self._last, self._step
        if step is None:
            return Doing("start", 0, passed, 0.0)
        if pause := next((name for name in self._spans() if name in PAUSES), None):
            return Doing(pause, step, passed, self._longest)
        recent = tuple(self._recent)
        return Doing("step", step, passed, median(recent) if recent else 0.0)

    def check(self) -> tuple[bool, str]:
        """Return whether the rank does what it should, and a line that says what it does."""
        now = self.doing()
        healthy = now.seconds <= now.limit(STEP_SECONDS, PAUSE_SECONDS)
        if now.section == "start":
            return healthy, f"starting: no step yet, after {now.seconds:.1f} s"
        ended = f"step {now.step} ended {now.seconds:.1f} s ago"
        if now.section != "step":
            return healthy, f"{now.section}: {ended}"
        return healthy, f"training: {ended}" if healthy else f"stalled: {ended}, while a step takes {now.usual:.1f} s"


@dataclass(frozen=True)
class Doing:
    """What a rank does, and for how long.

    Attributes:
        section: "start" before the end of the first step, "step", or one of `PAUSES`.
        step: steps of the run that have ended.
        seconds: since the last step has ended.
        usual: seconds that a step usually takes; for pauses, the longest time from one step to the next so far.
    """

    section: str
    step: int
    seconds: float
    usual: float

    def limit(self, step_seconds: float, pause_seconds: float) -> float:
        """Return the seconds after which something is wrong.

        Args:
            step_seconds: what a step may take in any case.
            pause_seconds: what everything else may take in any case.
        """
        return max(step_seconds if self.section == "step" else pause_seconds, SLOWER * self.usual)
