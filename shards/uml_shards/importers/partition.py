"""Patients -> train, val and test, or folds: by a hash of the patient, so that new data move nobody who is there."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

from ..errors import ShardError
from ..keyed import keyed_uniform

_ROUNDING = 1e-9
"""Shares such as 0.7 + 0.2 + 0.1 add up to 1 only so far."""


@dataclass(frozen=True)
class Partition:
    """How patients are drawn. All images of a patient are in one split, since only the patient's name is hashed.

    The test set is drawn first and by itself: it is the same with other values of `val`, and in every fold.

    Attributes:
        seed: another seed is another draw.
        val: share of the patients for validation; with folds it is not used.
        test: share of the patients for the test.
        folds: 0, or the number of equal parts that all but the test patients fall into.
        fold: the part that is val; the others are train.

    Raises:
        ShardError: shares outside 0 to 1 or of more than 1 together, or no such fold.
    """

    seed: int = 0
    val: float = 0.15
    test: float = 0.15
    folds: int = 0
    fold: int = 0

    def __post_init__(self) -> None:
        shares = (self.test,) if self.folds else (self.val, self.test)
        if not all(0 <= share <= 1 for share in shares) or sum(shares) > 1 + _ROUNDING:
            raise ShardError(f"val={self.val}, test={self.test}: shares must be from 0 to 1, and 1 together at most")
        if self.folds < 0 or self.folds == 1:
            raise ShardError(f"folds={self.folds}: use 2 or more, or 0 for shares of val and test")
        if not 0 <= self.fold < max(self.folds, 1):
            raise ShardError(f"fold={self.fold}: with folds={self.folds} use 0 to {max(self.folds, 1) - 1}")

    @property
    def shares(self) -> dict[str, float]:
        """Expected share of each split."""
        val = (1 - self.test) / self.folds if self.folds else self.val
        return {"train": 1 - self.test - val, "val": val, "test": self.test}

    def split_of(self, patient: str) -> str:
        """The split of one patient: train, val or test."""
        draw = keyed_uniform("partition", self.seed, patient)
        if draw < self.test:
            return "test"
        if self.folds:
            part = int(keyed_uniform("partition folds", self.seed, patient) * self.folds)
            return "val" if part == self.fold else "train"
        return "val" if draw < self.test + self.val else "train"


def split_patients(patients: Iterable[str], partition: Partition) -> dict[str, str]:
    """Patient -> split.

    Raises:
        ShardError: a split that has a share got no patient, since there are few.
    """
    found = {patient: partition.split_of(patient) for patient in patients}
    for split, share in partition.shares.items():
        if share > _ROUNDING and split not in found.values():
            raise ShardError(
                f"none of {len(found)} patients falls into {split}, of share {share:.2g}: "
                "use another seed or other shares, or name the splits yourself"
            )
    return found


def refuse_shared(patients: Mapping[str, Iterable[str]]) -> None:
    """Check that no patient is in two splits.

    Args:
        patients: split -> its patients.

    Raises:
        ShardError: some are; the message has their number and the first.
    """
    sets = {split: set(members) for split, members in patients.items()}
    for one, other in combinations(sets, 2):
        if shared := sorted(sets[one] & sets[other]):
            raise ShardError(
                f"{len(shared)} patients are in {one} and in {other}, first {shared[0]!r}: "
                "all images of a patient must be in one split"
            )
