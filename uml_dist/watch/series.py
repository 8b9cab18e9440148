"""Curves of bounded length: of a long run, neighbouring values are kept as their mean, minimum and maximum."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CAPACITY = 512
"""Most points of a curve: more than a chart has pixels to tell apart."""

MAX_STEP = 10**9

STEP, SUM, COUNT, LOW, HIGH = range(5)


class Series:
    """The values of one figure over the steps of a run, in at most 512 points.

    A point stands for the steps of one interval; intervals double in width whenever there are too many.

    Attributes:
        last: value of the last record, even if it is not finite; None without any.
        last_step: step of that record.
        lowest: lowest finite value, and its step.
        highest: highest finite value, and its step.
        broken: number of values that are not finite.
        first_broken: step of the first of them.
    """

    def __init__(self) -> None:
        self._table = np.empty((0, 5))
        self._width = 1
        self.last: float | None = None
        self.last_step = 0
        self.lowest: tuple[float, int] | None = None
        self.highest: tuple[float, int] | None = None
        self.broken = 0
        self.first_broken: int | None = None

    def extend(self, steps: Sequence[float], values: Sequence[float]) -> None:
        """Add values, at least one; steps are at most 10^9."""
        at, given = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
        self.last, self.last_step = float(given[-1]), int(at[-1])
        finite = np.isfinite(given)
        if not finite.all():
            self.broken += int((~finite).sum())
            if self.first_broken is None:
                self.first_broken = int(at[~finite][0])
            at, given = at[finite], given[finite]
        if not len(given):
            return
        low, high = int(given.argmin()), int(given.argmax())
        if self.lowest is None or given[low] < self.lowest[0]:
            self.lowest = float(given[low]), int(at[low])
        if self.highest is None or given[high] > self.highest[0]:
            self.highest = float(given[high]), int(at[high])
        fresh = np.stack([at, given, np.ones_like(at), given, given], axis=1)
        self._table = _joined(np.concatenate([self._table, fresh]), self._width)
        while len(self._table) > CAPACITY:
            self._width *= 2
            self._table = _joined(self._table, self._width)

    @property
    def steps(self) -> NDArray[np.float64]:
        """Last step of each point."""
        return self._table[:, STEP]

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean value of each point."""
        return self._table[:, SUM] / self._table[:, COUNT]

    @property
    def sums(self) -> NDArray[np.float64]:
        """Sum of the values of each point."""
        return self._table[:, SUM]

    @property
    def lows(self) -> NDArray[np.float64]:
        """Lowest value of each point."""
        return self._table[:, LOW]

    @property
    def highs(self) -> NDArray[np.float64]:
        """Highest value of each point."""
        return self._table[:, HIGH]

    @property
    def is_joined(self) -> bool:
        """Whether points stand for several values."""
        return bool((self._table[:, COUNT] > 1).any())


def _joined(table: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Join the rows whose steps are in the same interval of a width, in the order of their steps."""
    intervals = table[:, STEP] // width
    order = np.argsort(intervals, kind="stable")
    table, intervals = table[order], intervals[order]
    starts = np.flatnonzero(np.diff(intervals, prepend=-1.0))
    joined = np.add.reduceat(table, starts, axis=0)
    joined[:, STEP] = np.maximum.reduceat(table[:, STEP], starts)
    joined[:, LOW] = np.minimum.reduceat(table[:, LOW], starts)
    joined[:, HIGH] = np.maximum.reduceat(table[:, HIGH], starts)
    return joined
