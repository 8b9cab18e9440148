"""What the ranks of a run spend their time on, which of them the others wait for, and how certain the networks are."""

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uml_shards.errors import one_line

from .exporters import Answer, Samples, ask_ranks, totals

KEEP_SECONDS = 4.0
"""How long answers are used before the ranks are asked again."""

WINDOW_SECONDS = 120.0
"""Time over which recent figures are formed."""

SHORTEST_WINDOW = 15.0
PATIENCE_SECONDS = 0.3
"""How long a page waits for the answers of the ranks; the next one shows those that come later."""

STEPS, STEP_SUM, STEP_COUNT = "uml_steps_total", "uml_step_seconds_sum", "uml_step_seconds_count"
PHASES = "uml_phase_seconds_total"
BETWEEN_STEPS = ("validation", "checkpoint", "hooks")
WAITING = "counts"
"""Phase in which a rank waits for the slowest one."""


@dataclass(frozen=True)
class RankView:
    """What a rank spends its time on.

    Attributes:
        rank: index of the rank.
        node: name of its machine.
        problem: why nothing is known; "" if something is.
        step_seconds: mean duration of a step.
        own_seconds: part of it without the wait for other ranks.
        waiting: share of the step in which it waits for other ranks.
        data_wait: share of the step in which it waits for data.
        memory: resident memory in bytes.
        gpu_memory: allocated GPU memory in bytes.
        gpu_utilization: share of the time in which a kernel ran, 0 to 1.
    """

    rank: int
    node: str
    problem: str = ""
    step_seconds: float | None = None
    own_seconds: float | None = None
    waiting: float | None = None
    data_wait: float | None = None
    memory: float | None = None
    gpu_memory: float | None = None
    gpu_utilization: float | None = None


@dataclass(frozen=True)
class RanksView:
    """What is known of the ranks of a run.

    Attributes:
        ranks: one view of each rank.
        window: seconds over which their figures are formed; None: since this start of the run.
        written: when the oldest of the values were written into a file, in seconds since 1970; None: all are of now.
        distributions: edges and counts of the vacuity of all ranks, by level.
        problem: why nothing is known; "" if something is.
    """

    ranks: tuple[RankView, ...] = ()
    window: float | None = None
    written: float | None = None
    distributions: Mapping[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    problem: str = ""


class Ranks:
    """The ranks of one run, asked in a thread: a page never waits for one that does not answer.

    Args:
        run: the run folder.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._asked = -KEEP_SECONDS
        self._view = RanksView(problem="the ranks are being asked")
        self._history: deque[tuple[float, dict[int, Samples]]] = deque()
        self._thread: threading.Thread | None = None

    def view(self, metrics: Mapping[str, Any], alive: bool, patience: float) -> RanksView:
        """Return what the ranks answered a moment ago. One thread calls at a time.

        Args:
            metrics: table `[metrics]` of the run's configuration.
            alive: whether the ranks may answer.
            patience: seconds to wait for answers that are new.
        """
        if time.monotonic() - self._asked >= KEEP_SECONDS and (self._thread is None or not self._thread.is_alive()):
            self._asked = time.monotonic()
            self._thread = threading.Thread(target=self._update, args=(metrics, alive), name="ranks", daemon=True)
            self._thread.start()
        if self._thread is not None:
            self._thread.join(patience)
        return self._view

    def _update(self, metrics: Mapping[str, Any], alive: bool) -> None:
        try:
            self._view = self._ask(metrics, alive)
        except Exception as error:  # the rest of the page does not depend on it
            self._view = RanksView(problem=one_line(error))

    def _ask(self, metrics: Mapping[str, Any], alive: bool) -> RanksView:
        answers = ask_ranks(self._run, metrics, alive)
        good = {one.rank: one.samples for one in answers if one.samples is not None}
        if not good:
            if answers:
                return RanksView(problem=f"no rank answers: {answers[0].problem}")
            if metrics.get("enabled") is False:
                return RanksView(problem="metrics.enabled is false")
            return RanksView(problem="no rank serves its metrics, or has left any in the run folder")
        now = time.monotonic()
        before, window = self._before(now, good)
        if not self._history or now - self._history[-1][0] >= KEEP_SECONDS:
            self._history.append((now, good))
        views = tuple(rank_view(one, before.get(one.rank, {})) for one in answers)
        written = min((one.written for one in answers if one.written is not None), default=None)
        return RanksView(views, window, written, distributions(list(good.values())))

    def _before(self, now: float, good: Mapping[int, Samples]) -> tuple[Mapping[int, Samples], float | None]:
        """Return earlier answers of the same processes to compare with, and how old they are."""
        steps = totals(list(good.values()), STEPS)
        history = self._history
        while history and (now - history[0][0] > WINDOW_SECONDS or totals(list(history[0][1].values()), STEPS) > steps):
            history.popleft()
        if not history or now - history[0][0] < SHORTEST_WINDOW:
            return {}, None
        at, earlier = history[0]
        # Phases are read at logging steps only: without one in the window, the figures are those of the whole run.
        if any(totals([earlier.get(rank, {})], PHASES) == totals([one], PHASES) for rank, one in good.items()):
            return {}, None
        return earlier, now - at


def rank_view(answer: Answer, before: Samples) -> RankView:
    """Return what a rank spent its time on since earlier values, or since its start if there are none."""
    now = answer.samples
    if now is None:
        return RankView(answer.rank, answer.node, answer.problem)

    def since(name: str) -> float:
        return totals([now], name) - totals([before], name)

    phases = {
        dict(labels).get("phase", ""): value - before.get(PHASES, {}).get(labels, 0.0)
        for labels, value in now.get(PHASES, {}).items()
    }
    within = sum(value for name, value in phases.items() if name not in BETWEEN_STEPS)
    count, seconds = since(STEP_COUNT), since(STEP_SUM)
    step = seconds / count if count > 0 else None
    waiting = phases.get(WAITING, 0.0) / within if within > 0 else None
    return RankView(
        answer.rank,
        answer.node,
        step_seconds=step,
        own_seconds=step * (1.0 - waiting) if step is not None and waiting is not None else step,
        waiting=waiting,
        data_wait=since("uml_data_wait_seconds_total") / seconds if seconds > 0 else None,
        memory=_mean(now, "uml_resident_memory_bytes"),
        gpu_memory=_mean(now, "uml_gpu_memory_allocated_bytes"),
        gpu_utilization=_mean(now, "uml_gpu_utilization_ratio"),
    )


def distributions(answers: Sequence[Samples]) -> dict[str, tuple[list[float], list[float]]]:
    """Return edges and counts of the vacuity of all ranks, by level."""
    bounds: dict[str, dict[float, float]] = {}
    for samples in answers:
        for labels, count in samples.get("uml_opinion_vacuity_bucket", {}).items():
            given = dict(labels)
            buckets = bounds.setdefault(given.get("level", ""), {})
            edge = float(given.get("le", "nan"))
            buckets[edge] = buckets.get(edge, 0.0) + count
    found = {}
    for level, buckets in sorted(bounds.items()):
        edges = sorted(edge for edge in buckets if 0.0 < edge <= 1.0)
        counts = [buckets[edge] - (buckets[edges[place - 1]] if place else 0.0) for place, edge in enumerate(edges)]
        if sum(counts) > 0:
            found[level] = ([0.0, *edges], counts)
    return found


def _mean(samples: Samples, name: str) -> float | None:
    """Return the mean of a gauge over its labels; None if the rank does not export it."""
    values = samples.get(name, {}).values()
    return sum(values) / len(values) if values else None
