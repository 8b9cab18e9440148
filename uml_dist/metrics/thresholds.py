"""The probability from which on a pixel belongs to a lesion, and which one gives the largest Dice."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from uml_shards.format.manifest import Manifest

from .cases import Cases
from .families.lesion_ranking import histogram_name
from .histograms import lowest_score


@dataclass(frozen=True)
class Thresholds:
    """The probability of each lesion from which on a pixel belongs to it.

    Attributes:
        values: lesion -> threshold, in the order of the lesions.
        split: name of the split on which they were chosen.
    """

    values: Mapping[str, float]
    split: str

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value:.4f}" for name, value in self.values.items())
        return f"{values}: those of the largest Dice of all pixels of {self.split} together"


def best_thresholds(cases: Cases, manifest: Manifest) -> dict[str, float]:
    """Return the threshold of the largest Dice of each lesion that has a pixel in a mask, over all pixels together.

    Thresholds are the ends of the bins of the histograms. Of equal ones, the one in the middle is chosen, which is the
    farthest from the scores on both sides.
    """
    found = {}
    for number, name in enumerate(manifest.mask_names):
        sums = cases.sums.get(histogram_name(number))
        if sums is None or not sums[0, 1].any():
            continue
        negatives, positives = np.cumsum(sums[0, :, ::-1], axis=1)[:, ::-1]
        dice = 2 * positives / (positives + negatives + positives[0])
        best = np.flatnonzero(dice == dice.max())
        found[name] = lowest_score(int(best[len(best) // 2]))
    return found
