"""Assign patients to train, val and test, or to folds, by a hash.

`Partition` draws each patient by itself, so adding patients never moves existing ones. `draw_shares` is for data sets
that do not grow, and gives the same shares in every class.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..errors import ShardError
from ..keyed import keyed_permutation, keyed_uniform

_ROUNDING = 1e-9
"""Tolerance for sums of fractions such as 0.7 + 0.2 + 0.1."""


@dataclass(frozen=True)
class Partition:
    """Draws the split of each patient. Only the patient's name is hashed, so all its images are in one split.

    The test set is drawn first and independently: it is the same for all values of `val` and in every fold.

    Attributes:
        seed: random seed of the draw.
        val: fraction of the patients for validation; not used with folds.
        test: fraction of the patients for testing.
        folds: 0, or the number of equal folds into which all patients except the test patients are divided.
        fold: the fold that is val; the others are train.

    Raises:
        ShardError: a fraction is not in [0, 1], the fractions sum to more than 1, or the fold does not exist.
    """

    seed: int = 0
    val: float = 0.15
    test: float = 0.15
    folds: int = 0
    fold: int = 0

    def __post_init__(self) -> None:
        shares = (self.test,) if self.folds else (self.val, self.test)
        if not all(0 <= share <= 1 for share in shares) or sum(shares) > 1 + _ROUNDING:
            raise ShardError(
                f"val={self.val}, test={self.test}: fractions must be from 0 to 1, with a sum of at most 1"
            )
        if self.folds < 0 or self.folds == 1:
            raise ShardError(f"folds={self.folds}: use 2 or more, or 0 for the fractions val and test")
        if not 0 <= self.fold < max(self.folds, 1):
            raise ShardError(f"fold={self.fold}: with folds={self.folds} use 0 to {max(self.folds, 1) - 1}")

    @property
    def shares(self) -> dict[str, float]:
        """Expected fraction of each split."""
        val = (1 - self.test) / self.folds if self.folds else self.val
        return {"train": 1 - self.test - val, "val": val, "test": self.test}

    def split_of(self, patient: str) -> str:
        """Return the split of a patient: train, val or test."""
        draw = keyed_uniform("partition", self.seed, patient)
        if draw < self.test:
            return "test"
        if self.folds:
            part = int(keyed_uniform("partition folds", self.seed, patient) * self.folds)
            return "val" if part == self.fold else "train"
        return "val" if draw < self.test + self.val else "train"


def split_patients(patients: Iterable[str], partition: Partition) -> dict[str, str]:
    """Map patient -> split.

    Raises:
        ShardError: there are so few patients that a split with a fraction above 0 is empty.
    """
    found = {patient: partition.split_of(patient) for patient in patients}
    for split, share in partition.shares.items():
        if share > _ROUNDING and split not in found.values():
            raise ShardError(
                f"none of {len(found)} patients is drawn for {split}, which has the fraction {share:.2g}: "
                "use another seed or other fractions, or define the splits yourself"
            )
    return found


def split_known(
    patients: Mapping[str, str], known: Collection[str], partition: Partition, note: Callable[[str, int], None]
) -> dict[str, str]:
    """Map sample -> split, drawn by patient. Patients without any label or mask are in train: nothing can be evaluated.

    Args:
        patients: sample -> patient.
        known: the samples with a label or a mask; if there are none at all, every patient is drawn.
        partition: how patients are drawn.
        note: told how many samples are in train for this reason.

    Raises:
        ShardError: see `split_patients`.
    """
    drawn = split_patients([patients[sample] for sample in known] or patients.values(), partition)
    left = sum(patient not in drawn for patient in patients.values())
    if left and partition.shares["train"] < 1:
        note("samples of patients without any label or mask, all in train", left)
    return {sample: drawn.get(patient, "train") for sample, patient in patients.items()}


def draw_shares(classes: Mapping[str, str | int], shares: Mapping[str, float], *key: str | int) -> dict[str, str]:
    """Map patient -> split, drawn by a key with the same shares of each class.

    Args:
        classes: patient -> class.
        shares: split -> its share of the patients of every class; the sum is 1.
        key: random key of the draw.
    """
    found = {}
    ends = np.cumsum(list(shares.values()))
    for one in sorted(set(classes.values()), key=str):
        patients = sorted(patient for patient, other in classes.items() if other == one)
        order = keyed_permutation(len(patients), *key, one)
        last = np.round(ends * len(patients)).astype(int)
        for place, number in enumerate(order):
            found[patients[number]] = list(shares)[int(np.searchsorted(last, place, side="right"))]
    return found


def refuse_shared(patients: Mapping[str, Iterable[str]]) -> None:
    """Check that no patient is in two splits.

    Args:
        patients: split -> its patients.

    Raises:
        ShardError: some are; the message states their number and the first one.
    """
    sets = {split: set(members) for split, members in patients.items()}
    for one, other in combinations(sets, 2):
        if shared := sorted(sets[one] & sets[other]):
            raise ShardError(
                f"{len(shared)} patients are in both {one} and {other}, first {shared[0]!r}: "
                "all images of a patient must be in one split"
            )
