"""The oracle scores of a split that stores the probabilities from which its labels and masks were drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ShardError, reading
from ..format.picture import decode_grey
from ..format.volume import TRUTH as VOLUME_TRUTH
from ..format.volume import decode_volume_truth
from ..sample import Sample
from .samples import Samples
from .split import Split

TRUTH = "truth.png"
"""Extension of the component with 255 times the foreground probability of each pixel; volumes have `VOLUME_TRUTH`."""

CLASS_PROBABILITY = "class_probability"
"""Entry of the json with the probability of each class."""

EmptyRule = Literal["one", "leave-out"]
"""How to score a class that is absent from both mask and prediction: an overlap of 1, or leave the sample out."""


@dataclass(frozen=True)
class Oracle:
    """Scores of a model that knows the true probabilities, on the labels and masks drawn for this split.

    The first two and the last are NaN for data without classes, such as phantom volumes.

    Attributes:
        auroc: AUROC of the true probability of class 1 against the drawn labels.
        accuracy: accuracy of the more probable class.
        dice: Dice of the pixels with probability >= 0.5 against the drawn mask, averaged over the samples; NaN if no
            sample counts.
        ece: expected calibration error of the more probable class, which is due to the random draw only.
    """

    auroc: float
    accuracy: float
    dice: float
    ece: float


def class_probability(sample: Sample) -> NDArray[np.float64]:
    """Return the probabilities (classes,) from which a sample's label was drawn.

    Raises:
        ShardError: the sample does not store them.
    """
    stored = sample.meta.get(CLASS_PROBABILITY)
    if stored is None:
        raise ShardError(f"sample {sample.key} stores no true class probability: only generated data do")
    with reading(f"{CLASS_PROBABILITY} of sample {sample.key}"):
        probabilities = np.asarray(stored, dtype=np.float64)
    if probabilities.ndim != 1 or len(probabilities) < 2:
        raise ShardError(f"{CLASS_PROBABILITY} of sample {sample.key} is not a list of two or more probabilities")
    return probabilities


def foreground_probability(split: Split | Samples, number: int) -> NDArray[np.float32]:
    """Return the probabilities (H, W) or (H, W, D) from which a sample's mask was drawn.

    Raises:
        ShardError: the sample does not store them.
    """
    key, components = split.components(number)
    if VOLUME_TRUTH in components:
        stored = decode_volume_truth(components[VOLUME_TRUTH])
    elif TRUTH in components:
        stored = decode_grey(components[TRUTH], TRUTH)
    else:
        raise ShardError(f"sample {key} of {split.path} stores no {TRUTH} or {VOLUME_TRUTH}: only generated data do")
    return stored.astype(np.float32) / np.float32(255)


def oracle(split: Split, empty: EmptyRule = "one") -> Oracle:
    """Compute the oracle scores of a split with a binary mask and two classes or none.

    Args:
        split: split that stores its true probabilities.
        empty: "one": the Dice of a sample without foreground in mask and truth is 1; "leave-out": such a sample is
            excluded from the Dice. Compare scores only under the same rule.

    Raises:
        ShardError: the split does not store its true probabilities.
    """
    labels, probabilities, dices = [], [], []
    for number in range(len(split)):
        sample = split.read(number)
        if split.manifest.classes:
            labels.append(sample.label)
            probabilities.append(class_probability(sample)[1])
        truth = foreground_probability(split, number) >= 0.5
        drawn = sample.mask == 1
        if truth.any() or drawn.any():
            dices.append(2.0 * np.sum(truth & drawn) / (np.sum(truth) + np.sum(drawn)))
        elif empty == "one":
            dices.append(1.0)
    dice = float(np.mean(dices)) if dices else float("nan")
    if not labels:
        return Oracle(auroc=float("nan"), accuracy=float("nan"), dice=dice, ece=float("nan"))
    positive = np.asarray(probabilities)
    hits = (positive >= 0.5) == np.asarray(labels)
    return Oracle(
        auroc=auroc(labels, probabilities),
        accuracy=float(np.mean(hits)),
        dice=dice,
        ece=calibration_error(np.maximum(positive, 1.0 - positive), hits),
    )


def calibration_error(confidences: ArrayLike, hits: ArrayLike, bins: int = 15) -> float:
    """Return the expected calibration error: |hits - sum of confidences| summed over equal-width bins, divided by N.

    Args:
        confidences: (N,) in [0, 1]; the upper end of each bin belongs to the next bin, 1 to the last one.
        hits: (N,) 0 or 1.
        bins: number of bins.
    """
    confidence = np.asarray(confidences, dtype=np.float64)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, weights=np.asarray(hits) - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def auroc(labels: Sequence[int] | ArrayLike, scores: ArrayLike) -> float:
    """Return the area under the ROC curve: the probability that a positive scores above a negative, ties counted half.

    Args:
        labels: (N,) 0 or 1.
        scores: (N,).

    Returns:
        The area; NaN unless both labels occur.
    """
    positive = np.asarray(labels, dtype=bool)
    _, place, counts = np.unique(np.asarray(scores), return_inverse=True, return_counts=True)
    # Ranks start at 1; ties share the mean of their ranks.
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[place]
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    return float((ranks[positive].sum() - positives * (positives + 1) / 2.0) / (positives * negatives))
