"""The oracle of a split that stores the truth its labels and masks were drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ShardError
from ..format.picture import decode_grey
from ..sample import Sample
from .split import Split

TRUTH = "truth.png"
"""Component that holds 255 times the foreground probability of each pixel."""

CLASS_PROBABILITY = "class_probability"
"""Entry of the json that holds the probability of each class."""

EmptyRule = Literal["one", "leave-out"]
"""How an overlap counts of a class that is neither in a sample's mask nor predicted: as 1, or not at all."""


@dataclass(frozen=True)
class Oracle:
    """What a model reaches that knows the truth, up to the luck of the draw in this split.

    Attributes:
        auroc: of the true probability of class 1 against the drawn labels.
        accuracy: of the more probable class.
        dice: of the pixels with probability >= 0.5 against the drawn mask, averaged over the samples; NaN where no
            sample counts.
        ece: expected calibration error of the more probable class: what the draw alone leaves in this split.
    """

    auroc: float
    accuracy: float
    dice: float
    ece: float


def class_probability(sample: Sample) -> NDArray[np.float64]:
    """The probabilities (classes,) that a sample's label was drawn from.

    Raises:
        ShardError: the sample does not store them.
    """
    stored = sample.meta.get(CLASS_PROBABILITY)
    if stored is None:
        raise ShardError(f"sample {sample.key} stores no true class probability: only made data do")
    return np.asarray(stored, dtype=np.float64)


def foreground_probability(split: Split, number: int) -> NDArray[np.float32]:
    """The probabilities (H, W) that a sample's mask was drawn from.

    Raises:
        ShardError: the sample does not store them.
    """
    key, components = split.components(number)
    if TRUTH not in components:
        raise ShardError(f"sample {key} of {split.path} stores no {TRUTH}: only made data do")
    return decode_grey(components[TRUTH], TRUTH).astype(np.float32) / np.float32(255)


def oracle(split: Split, empty: EmptyRule = "one") -> Oracle:
    """The scores of the truth itself on a split of two classes and a binary mask.

    Args:
        split: that stores its truth.
        empty: "one": the Dice of a sample without foreground in the mask and in the truth is 1; "leave-out": that
            sample counts in no Dice. Figures are comparable under the same rule only.

    Raises:
        ShardError: the split does not store its truth.
    """
    labels, probabilities, dices = [], [], []
    for number in range(len(split)):
        sample = split.read(number)
        labels.append(sample.label)
        probabilities.append(class_probability(sample)[1])
        truth = foreground_probability(split, number) >= 0.5
        drawn = sample.mask == 1
        if truth.any() or drawn.any():
            dices.append(2.0 * np.sum(truth & drawn) / (np.sum(truth) + np.sum(drawn)))
        elif empty == "one":
            dices.append(1.0)
    positive = np.asarray(probabilities)
    hits = (positive >= 0.5) == np.asarray(labels)
    return Oracle(
        auroc=auroc(labels, probabilities),
        accuracy=float(np.mean(hits)),
        dice=float(np.mean(dices)) if dices else float("nan"),
        ece=calibration_error(np.maximum(positive, 1.0 - positive), hits),
    )


def calibration_error(confidences: ArrayLike, hits: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error: |hits - sum of confidences| in bins of equal width of the confidence, over all.

    Args:
        confidences: (N,) in [0, 1]; the upper end of each bin belongs to the next, 1 to the last.
        hits: (N,) 0 or 1.
        bins: of the confidence.
    """
    confidence = np.asarray(confidences, dtype=np.float64)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, weights=np.asarray(hits) - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def auroc(labels: Sequence[int] | ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the probability that a positive scores above a negative, ties counted half.

    Args:
        labels: (N,) 0 or 1.
        scores: (N,).

    Returns:
        NaN unless both labels occur.
    """
    positive = np.asarray(labels, dtype=bool)
    _, place, counts = np.unique(np.asarray(scores), return_inverse=True, return_counts=True)
    # Rank from 1; those that tie share the mean of their ranks.
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[place]
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    return float((ranks[positive].sum() - positives * (positives + 1) / 2.0) / (positives * negatives))
