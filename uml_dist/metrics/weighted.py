"""Metrics as functions of the weights of cases.

A metric takes a `Weighting`, D ways to weight the same cases, and returns D values, NaN where it cannot be formed.
Weights of one give the estimate; the counts of a bootstrap draw give that draw, by the same code.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Weighting:
    """D ways to weight N cases.

    Attributes:
        weights: (D, N).
        sums: name -> (D, ...), sums over the cases under these weights of arrays that are not kept by case.
    """

    weights: Floats
    sums: Mapping[str, Floats] = field(default_factory=dict)


Metric = Callable[[Weighting], Floats]


def mean(values: Floats, counted: Flags) -> Metric:
    """Return the mean of the values (N,) over the cases that count (N,)."""
    kept, number = np.where(counted, values, 0.0), counted.astype(np.float64)
    return lambda cases: _ratio(cases.weights @ kept, cases.weights @ number)


def total(values: Floats, counted: Flags) -> Metric:
    """Return the sum of the values (N,) over the cases that count (N,)."""
    kept = np.where(counted, values, 0.0)
    return lambda cases: cases.weights @ kept


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
        return lambda cases: np.full(len(cases.weights), np.nan)
    # Where a new score begins: cases with equal scores share a bin.
    starts = np.flatnonzero(np.diff(score[order], prepend=np.nan) != 0)
    is_positive = positive[order].astype(np.float64)

    def metric(cases: Weighting) -> Floats:
        sorted_weights = cases.weights[:, order]
        positives = np.add.reduceat(sorted_weights * is_positive, starts, axis=1)
        return _auroc_of_bins(positives, np.add.reduceat(sorted_weights, starts, axis=1) - positives)

    return metric


def pooled_auroc(histogram: str) -> Metric:
    """Area under the ROC curve over parts of all cases, such as pixels, which are counted by their score.

    Args:
        histogram: name of the sums (D, 2, bins): negatives and positives in each bin, in ascending order of the score.
    """
    return lambda cases: _auroc_of_bins(cases.sums[histogram][:, 1], cases.sums[histogram][:, 0])


def pooled_average_precision(histogram: str) -> Metric:
    """Average precision over parts of all cases, such as pixels: sum of (R_i - R_{i-1}) P_i over the scores i.

    The order within a bin is not known. Its n negatives and p positives are taken to alternate evenly: from the highest
    score on, its k-th positive follows k n / p of its negatives. So the value is exact if all parts of a bin have the
    same score and one of them at most is positive. If all parts have one score, it is the share of the positives.

    Args:
        histogram: name of the sums (D, 2, bins): negatives and positives in each bin, in ascending order of the score.
    """

    def metric(cases: Weighting) -> Floats:
        negatives, positives, before = _from_the_top(cases.sums[histogram])
        step = 1.0 + np.divide(negatives, positives, out=np.zeros_like(negatives), where=positives > 0)
        return _ratio(_precisions(positives, before[1], before.sum(0), step).sum(1), positives.sum(1))

    return metric


def average_precision_error(histogram: str) -> Metric:
    """How far `pooled_average_precision` can be from the value without bins, at most.

    The value without bins is at least that of the order in which all negatives of a bin come first. It is at most the
    one in which each positive of a bin has the precision of all its positives without its negatives.

    Args:
        histogram: name of the sums (D, 2, bins), as there.
    """

    def metric(cases: Weighting) -> Floats:
        negatives, positives, before = _from_the_top(cases.sums[histogram])
        found, number = before.sum(0), positives.sum(1)
        worst = _precisions(positives, before[1], found + negatives, np.ones_like(negatives)).sum(1)
        best = (positives * (before[1] + positives) / np.maximum(found + positives, 1.0)).sum(1)
        value = pooled_average_precision(histogram)(cases)
        return np.maximum(_ratio(best, number) - value, value - _ratio(worst, number))

    return metric


def _from_the_top(counts: Floats) -> tuple[Floats, Floats, Floats]:
    """Return negatives and positives (D, bins) of each bin from the highest score on, and before it (2, D, bins)."""
    counts = np.moveaxis(counts, 1, 0)[..., ::-1]
    return counts[0], counts[1], np.cumsum(counts, axis=2) - counts


def _precisions(positives: Floats, before: Floats, found: Floats, step: Floats) -> Floats:
    """Return the sum over k = 1 .. positives of the precisions (before + k) / (found + k step); 0 without positives.

    With s = found / step it is (positives + (before - s) (1 / (s + 1) + ... + 1 / (s + positives))) / step.
    """
    start = found / step
    harmonic = digamma(start + positives + 1.0) - digamma(start + 1.0)
    return (positives + (before - start) * harmonic) / step


def calibration_error(gap: Floats, number: Floats) -> Metric:
    """Expected calibration error: the gaps between hits and confidence in bins of the confidence, over all.

    Args:
        gap: (N, bins), by case: hits less the sum of confidences in each bin.
        number: (N,), predictions in each case.
    """
    return lambda cases: _ratio(np.abs(cases.weights @ gap).sum(1), cases.weights @ number)


def pooled_calibration_error(bins: str) -> Metric:
    """Expected calibration error over parts of all cases, such as pixels.

    Args:
        bins: name of the sums (D, bins, 3): number, sum of confidences and hits by confidence.
    """

    def metric(cases: Weighting) -> Floats:
        number, confidence, hits = np.moveaxis(cases.sums[bins], 2, 0)
        return _ratio(np.abs(hits - confidence).sum(1), number.sum(1))

    return metric


def balanced_accuracy(label: NDArray[np.int64], predicted: NDArray[np.int64], classes: int, counted: Flags) -> Metric:
    """Return the mean over the classes of the recognised share; every class must occur."""
    true, _, both = _memberships(label, predicted, classes, counted)
    return lambda cases: _ratio(cases.weights @ both, cases.weights @ true).mean(1)


def macro_f1(label: NDArray[np.int64], predicted: NDArray[np.int64], classes: int, counted: Flags) -> Metric:
    """Return the mean over the classes of 2 hits / (cases + predictions of the class); every class must occur."""
    true, found, both = _memberships(label, predicted, classes, counted)

    def metric(cases: Weighting) -> Floats:
        of_class = cases.weights @ true
        scores = _ratio(2.0 * (cases.weights @ both), of_class + cases.weights @ found)
        return np.where(of_class > 0, scores, np.nan).mean(1)

    return metric


def weighted_f1(label: NDArray[np.int64], predicted: NDArray[np.int64], classes: int, counted: Flags) -> Metric:
    """Return the mean of the F1 of `macro_f1`, each class weighted by its cases; classes without any have no weight."""
    true, found, both = _memberships(label, predicted, classes, counted)

    def metric(cases: Weighting) -> Floats:
        of_class = cases.weights @ true
        scores = _ratio(2.0 * (cases.weights @ both), of_class + cases.weights @ found)
        return _ratio((of_class * np.nan_to_num(scores)).sum(1), of_class.sum(1))

    return metric


def sensitivity(positive: Flags, predicted: Flags, counted: Flags) -> Metric:
    """Return the share of the positive cases that are predicted to be positive; (N,) each."""
    return mean(predicted.astype(np.float64), counted & positive)


def specificity(positive: Flags, predicted: Flags, counted: Flags) -> Metric:
    """Return the share of the negative cases that are predicted to be negative; (N,) each."""
    return sensitivity(~positive, ~predicted, counted)


def kappa(
    label: NDArray[np.int64], predicted: NDArray[np.int64], classes: int, counted: Flags, power: int = 0
) -> Metric:
    """Cohen's kappa: 1 - sum of W O / sum of W E, where O counts pairs of classes, E those expected by chance.

    NaN where all labels and all predictions are of one class.

    Args:
        label: (N,).
        predicted: (N,).
        classes: number of classes.
        counted: (N,), the cases that count.
        power: W of classes i and j is |i - j|^power, or 0 for i = j: 0 is the plain kappa, 2 the quadratic one.
    """
    true, found, _ = _memberships(label, predicted, classes, counted)
    numbers = np.arange(classes)
    distance = np.abs(numbers[:, None] - numbers)
    weight = np.where(distance > 0, distance.astype(np.float64) ** power, 0.0)
    disagreement = ((true @ weight) * found).sum(1)

    def metric(cases: Weighting) -> Floats:
        expected = ((cases.weights @ true @ weight) * (cases.weights @ found)).sum(1)
        number = cases.weights @ counted.astype(np.float64)
        return 1.0 - _ratio(cases.weights @ disagreement * number, expected)

    return metric


def mean_of(metrics: Sequence[Metric]) -> Metric:
    """Return the mean of metrics, NaN where one of them cannot be formed."""
    return lambda cases: np.mean([metric(cases) for metric in metrics], axis=0)


def sum_of(metrics: Sequence[Metric]) -> Metric:
    """Return the sum of metrics, NaN where one of them cannot be formed."""
    return lambda cases: np.sum([metric(cases) for metric in metrics], axis=0)


def _memberships(
    label: NDArray[np.int64], predicted: NDArray[np.int64], classes: int, counted: Flags
) -> tuple[Floats, Floats, Floats]:
    """Return three (N, classes) arrays: true class, predicted class, both; 0 for cases that do not count."""
    numbers = np.arange(classes)
    true = (label[:, None] == numbers) & counted[:, None]
    found = (predicted[:, None] == numbers) & counted[:, None]
    return true.astype(np.float64), found.astype(np.float64), (true & found).astype(np.float64)


def _auroc_of_bins(positives: Floats, negatives: Floats) -> Floats:
    below = np.cumsum(negatives, axis=1) - 0.5 * negatives
    return _ratio((positives * below).sum(1), positives.sum(1) * negatives.sum(1))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
