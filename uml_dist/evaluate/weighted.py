"""Metrics as functions of the weights of cases.

A metric takes weights (D, N), one row for each of D ways to weight N cases, and gives (D,) values, NaN where it cannot
be formed. Rows of ones give the estimate; the counts of a bootstrap draw give that draw, by the same code.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Metric = Callable[[Floats], Floats]


def mean(values: Floats, counted: Flags) -> Metric:
    """The mean of the values (N,) of the cases that count (N,)."""
    kept, number = np.where(counted, values, 0.0), counted.astype(np.float64)
    return lambda weights: _ratio(weights @ kept, weights @ number)


def auroc(positive: Flags, score: Floats, counted: Flags) -> Metric:
    """Area under the ROC curve: the probability that a positive scores above a negative, ties counted half.

    Args:
        positive: (N,).
        score: (N,).
        counted: (N,), the cases that count.
    """
    chosen = np.flatnonzero(counted)
    order = chosen[np.argsort(score[chosen], kind="stable")]
    if not len(order):
        return lambda weights: np.full(len(weights), np.nan)
    # Where a new score begins: cases that tie stand in one bin.
    starts = np.flatnonzero(np.diff(score[order], prepend=np.nan) != 0)
    is_positive = positive[order].astype(np.float64)

    def metric(weights: Floats) -> Floats:
        sorted_weights = weights[:, order]
        positives = np.add.reduceat(sorted_weights * is_positive, starts, axis=1)
        return _auroc_of_bins(positives, np.add.reduceat(sorted_weights, starts, axis=1) - positives)

    return metric


def pooled_auroc(positives: Floats, negatives: Floats) -> Metric:
    """Area under the ROC curve over the parts of all cases, such as pixels, whose scores stand in common bins.

    Args:
        positives: (N, bins), how many positives of a case are in each bin; bins in ascending order of the score.
        negatives: (N, bins), likewise.
    """
    return lambda weights: _auroc_of_bins(weights @ positives, weights @ negatives)


def calibration_error(gap: Floats, number: Floats) -> Metric:
    """Expected calibration error: the gaps between hits and confidence in bins of the confidence, over all.

    Args:
        gap: (N, bins), of a case: hits less the sum of confidences in each bin.
        number: (N,), how many predictions a case brings.
    """
    return lambda weights: _ratio(np.abs(weights @ gap).sum(1), weights @ number)


def balanced_accuracy(label: NDArray[np.int64], predicted: NDArray[np.int64], classes: int, counted: Flags) -> Metric:
    """The mean over the classes of the share that is recognised; every class must occur."""
    true, _, both = _memberships(label, predicted, classes, counted)
    return lambda weights: _ratio(weights @ both, weights @ true).mean(1)


def macro_f1(label: NDArray[np.int64], predicted: NDArray[np.int64], classes: int, counted: Flags) -> Metric:
    """The mean over the classes of 2 hits / (cases of the class + predictions of it); every class must occur."""
    true, found, both = _memberships(label, predicted, classes, counted)

    def metric(weights: Floats) -> Floats:
        of_class = weights @ true
        scores = _ratio(2.0 * (weights @ both), of_class + weights @ found)
        return np.where(of_class > 0, scores, np.nan).mean(1)

    return metric


def mean_of(metrics: Sequence[Metric]) -> Metric:
    """The mean of metrics; each of them must be formed."""
    return lambda weights: np.mean([metric(weights) for metric in metrics], axis=0)


def sum_of(metrics: Sequence[Metric]) -> Metric:
    """The sum of metrics; each of them must be formed."""
    return lambda weights: np.sum([metric(weights) for metric in metrics], axis=0)


def _memberships(
    label: NDArray[np.int64], predicted: NDArray[np.int64], classes: int, counted: Flags
) -> tuple[Floats, Floats, Floats]:
    """(N, classes) each: is of the class, is predicted to be of it, both; 0 for cases that do not count."""
    numbers = np.arange(classes)
    true = (label[:, None] == numbers) & counted[:, None]
    found = (predicted[:, None] == numbers) & counted[:, None]
    return true.astype(np.float64), found.astype(np.float64), (true & found).astype(np.float64)


def _auroc_of_bins(positives: Floats, negatives: Floats) -> Floats:
    below = np.cumsum(negatives, axis=1) - 0.5 * negatives
    return _ratio((positives * below).sum(1), positives.sum(1) * negatives.sum(1))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
