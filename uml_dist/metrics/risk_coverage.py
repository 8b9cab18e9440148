"""Selective prediction: the risk of the cases that are left if the most uncertain ones are referred to a person."""

from collections.abc import Callable
from weakref import ref

import numpy as np

from .weighted import Flags, Floats, Metric, Weighting

COVERAGE = 0.8
"""Share of the cases, the most certain ones, whose mean risk is given."""


CHUNK = 250_000
"""Number of weights that are sorted and summed at once: a dozen arrays of them fit into a processor's cache."""


class RiskCoverage:
    """The curve of risk over coverage of N cases, as three metrics. Lower is better for each.

    The k most certain of n cases are covered. Cases of equal uncertainty are in no order: the curve is the mean over
    all orders of them, so that a constant uncertainty has the figures of one that knows nothing.

    Args:
        risk: (N,) in [0, 1], such as 1 for a wrong class and 0 for the right one.
        uncertainty: (N,), of which the order alone counts.
        counted: (N,), the cases that count.
    """

    def __init__(self, risk: Floats, uncertainty: Floats, counted: Flags) -> None:
        chosen = np.flatnonzero(counted)
        self._order = chosen[np.argsort(uncertainty[chosen], kind="stable")]
        self._risk = risk[self._order]
        # The last of the cases of equal uncertainty.
        self._ends = np.flatnonzero(np.diff(uncertainty[self._order], append=np.nan) != 0)
        self._of: Callable[[], Weighting | None] = lambda: None
        self._values = np.empty((3, 0))

    @property
    def augrc(self) -> Metric:
        """Area under the generalised risk: the mean over all coverages of (sum of the risks of the covered cases) / n.

        0 without any risk, 1/2 if every case has a risk of 1. Traub et al., arXiv 2407.01032.
        """
        return lambda cases: self._all(cases)[0]

    @property
    def aurc(self) -> Metric:
        """Area under the risk-coverage curve: the mean over k = 1 .. n of the mean risk of the k most certain cases."""
        return lambda cases: self._all(cases)[1]

    @property
    def risk_at_coverage(self) -> Metric:
        """Mean risk of the 80 % most certain cases; a case that is covered in part counts in part."""
        return lambda cases: self._all(cases)[2]

    @property
    def curve(self) -> Floats:
        """Generalised risk (n + 1,) at the coverages k / n, k = 0 .. n: (sum of the risks of k most certain cases) / n.

        `augrc` is the area under it by straight lines, `aurc` the mean of curve[k] / (k / n) over k = 1 .. n.
        """
        number = len(self._order)
        ends = np.append(0, self._ends + 1)
        sums = np.append(0.0, np.cumsum(self._risk))[ends]
        return np.interp(np.arange(number + 1), ends, sums) / max(number, 1)

    def _all(self, cases: Weighting) -> Floats:
        """Return the three metrics (3, D); they share the curve, which is the costly part and not kept."""
        if self._of() is not cases:
            step = max(1, CHUNK // max(len(self._order), 1))
            parts = [cases.weights[start : start + step] for start in range(0, len(cases.weights), step)]
            self._of, self._values = ref(cases), np.concatenate([self._form(part) for part in parts], axis=1)
        return self._values

    def _form(self, weights: Floats) -> Floats:
        weights = weights[:, self._order]
        if not weights.shape[1]:
            return np.full((3, len(weights)), np.nan)
        covered = np.cumsum(weights, axis=1)
        risk = np.cumsum(np.multiply(weights, self._risk, out=weights), axis=1)
        if len(self._ends) < len(self._order):
            covered, risk = covered[:, self._ends], risk[:, self._ends]
        return np.stack([_augrc(covered, risk), _aurc(covered, risk), _at_coverage(covered, risk)])


def _augrc(covered: Floats, risk: Floats) -> Floats:
    number = covered[:, -1]
    area = (np.diff(covered, axis=1, prepend=0.0) * (risk - np.diff(risk, axis=1, prepend=0.0) / 2)).sum(1)
    return _over(area, number**2)


def _aurc(covered: Floats, risk: Floats) -> Floats:
    """Return the mean over k of the expected risk of the first k, which grows by `slope` per case from `before` on.

    The sum over k of (before + slope (k - start)) / k is slope cases + (before - slope start) (1 / (start + 1) + ...).
    """
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, int(covered.max()) + 1))])
    cases, more = np.diff(covered, axis=1, prepend=0.0), np.diff(risk, axis=1, prepend=0.0)
    slope = np.divide(more, cases, out=np.zeros_like(more), where=cases > 0)
    constant = (risk - more) - slope * (covered - cases)
    inverse = np.diff(harmonic[covered.astype(np.int64)], axis=1, prepend=0.0)
    return _over(more.sum(1) + (constant * inverse).sum(1), covered[:, -1])


def _at_coverage(covered: Floats, risk: Floats) -> Floats:
    kept = COVERAGE * covered[:, -1]
    rows = zip(kept, covered, risk, strict=True)
    return _over(np.array([np.interp(k, np.append(0.0, x), np.append(0.0, y)) for k, x, y in rows]), kept)


def _over(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
