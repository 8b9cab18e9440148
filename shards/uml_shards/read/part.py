"""A part of a split: the labelled samples, or all other samples without their annotations."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError
from ..format.manifest import Manifest
from ..sample import Sample
from .joined import Samples

PartName = Literal["labelled", "unlabelled"]


class SplitPart:
    """A subset of a split, in the split's order.

    The samples of the part "unlabelled" are bare images, whatever the shards contain: their labels, masks and json are
    never read, so they cannot affect a training.

    Args:
        whole: the complete split, or several joined splits.
        name: name of the part.
        labelled: (N,) which samples of the split are labelled; all others are unlabelled.

    Attributes:
        path: location of the split.
        numbers: numbers of the part's samples in the split, ascending.
        manifest: the split's manifest with the counts of the part; its digest depends on the chosen samples.
    """

    def __init__(self, whole: Samples, name: PartName, labelled: NDArray[np.bool_]) -> None:
        chosen = labelled if name == "labelled" else ~labelled
        self.path = whole.path
        self.numbers = np.flatnonzero(chosen)
        self._whole = whole if name == "labelled" else whole.without_truth()
        self._sets = _sizes(whole, chosen)
        self.manifest = _manifest(whole, self, name)

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, number: int) -> Sample:
        """Read, decode and check a sample.

        Raises:
            ShardError: the sample cannot be read; the message names shard, key and reason.
            IndexError: the number is out of range.
        """
        return self._whole.read(self._number(number))

    def read_patch(self, number: int, size: Sequence[int], place: Sequence[float]) -> Sample:
        """Read a sample whose image and mask are a patch of the volume; see `Split.read_patch`."""
        return self._whole.read_patch(self._number(number), size, place)

    def prefetch(self, number: int) -> None:
        """Start to fetch the shard of a sample; see `Split.prefetch`."""
        self._whole.prefetch(self._number(number))

    def labels(self) -> NDArray[np.int32]:
        """Return the labels (N,) of the part; -1 = not labelled."""
        return self._whole.labels()[self.numbers]

    def masked(self) -> NDArray[np.bool_]:
        """Return which samples (N,) of the part have a mask."""
        return self._whole.masked()[self.numbers]

    def keys(self) -> tuple[str, ...]:
        """Return the keys of the part, in order."""
        keys = self._whole.keys()
        return tuple(keys[number] for number in self.numbers)

    def sizes(self) -> tuple[int, ...]:
        """Return the number of samples of the part in each shard, without empty shards."""
        return tuple(size for sizes in self.sets() for size in sizes)

    def sets(self) -> tuple[tuple[int, ...], ...]:
        """Return the shard sizes for each data set; () for a data set without samples of the part."""
        return tuple(tuple(size for size in sizes if size) for sizes in self._sets)

    def without_truth(self) -> "SplitPart":
        """Return the same samples as bare images; see `Split.without_truth`."""
        chosen = np.zeros(len(self._whole), dtype=np.bool_)
        chosen[self.numbers] = True
        return SplitPart(self._whole, "unlabelled", ~chosen)

    def _number(self, number: int) -> int:
        """Return the number of a sample in the complete split."""
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)} in a part of {self.path}")
        return int(self.numbers[number])


def part_of(whole: Samples, name: PartName, ids: Path | None = None) -> SplitPart:
    """Return a part of a split.

    Args:
        whole: the complete split, or several joined splits.
        name: name of the part.
        ids: file with the keys of the labelled samples, see `read_keys`; if None, see `with_truth`.

    Raises:
        ShardError: the part is empty, or the list cannot be read or contains a key that is unknown, occurs in two data
            sets, or belongs to a sample with neither label nor mask.
    """
    labelled = with_truth(whole) if ids is None else _listed(whole, ids)
    if name == "labelled" and not labelled.any():
        raise ShardError(f"no sample of {_where(whole)} is labelled: none has a mask or a label")
    if name == "unlabelled" and labelled.all():
        why = (
            f"list {ids} contains all of them"
            if ids
            else "all have a mask or a label: list the labelled ones in labelled_ids"
        )
        raise ShardError(f"no sample of {_where(whole)} is unlabelled: {why}")
    return SplitPart(whole, name, labelled)


def with_truth(whole: Samples) -> NDArray[np.bool_]:
    """Return which samples (N,) have a mask, or, if no sample has a mask, which have a label."""
    masked = whole.masked()
    return masked if masked.any() else whole.labels() >= 0


def read_keys(path: Path) -> dict[str, int]:
    """Read a text file of one key per line and return key -> line number. Empty lines and # comments are ignored.

    Raises:
        ShardError: the file cannot be read, contains no key, or contains a key twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ShardError(f"list {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ShardError(f"list {path} is not UTF-8 text: write one key per line") from None
    found: dict[str, int] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        if line in found:
            raise ShardError(f"list {path}, line {number}: key {line!r} is already in line {found[line]}")
        found[line] = number
    if not found:
        raise ShardError(f"list {path} contains no keys: write one per line, or create it with `shards.py draw`")
    return found


def _listed(whole: Samples, path: Path) -> NDArray[np.bool_]:
    """Return which samples are in a list."""
    lines = read_keys(path)
    numbers: dict[str, int] = {}
    for number, key in enumerate(whole.keys()):
        if key in numbers:
            raise ShardError(f"list {path}, line {lines[key]}: key {key!r} is in two data sets of {_where(whole)}")
        if key in lines:
            numbers[key] = number
    known = whole.masked() | (whole.labels() >= 0)
    for key, line in lines.items():
        if key not in numbers:
            raise ShardError(f"list {path}, line {line}: key {key!r} is not in {_where(whole)}")
        if not known[numbers[key]]:
            raise ShardError(f"list {path}, line {line}: sample {key!r} has neither label nor mask: leave it out")
    chosen = np.zeros(len(whole), dtype=np.bool_)
    chosen[list(numbers.values())] = True
    return chosen


def _sizes(whole: Samples, chosen: NDArray[np.bool_]) -> list[list[int]]:
    """Return the number of chosen samples in each shard of each data set, in the order of the manifest."""
    found, first = [], 0
    for sizes in whole.sets():
        ends = first + np.cumsum(sizes, dtype=np.int64)
        found.append([int(chosen[end - size : end].sum()) for end, size in zip(ends, sizes, strict=True)])
        first += sum(sizes)
    return found


def _manifest(whole: Samples, part: SplitPart, name: PartName) -> Manifest:
    labels, sizes = part.labels(), (size for sizes in part._sets for size in sizes)
    stated = whole.manifest
    digest = hashlib.sha256(part.numbers.astype("<i8").tobytes()).hexdigest()
    return stated.model_copy(
        update={
            "labelled": int((labels >= 0).sum()),
            "masked": int(part.masked().sum()),
            "class_counts": tuple(int((labels == number).sum()) for number in range(len(stated.classes))),
            "options": {**stated.options, "part": {"name": name, "sha256": digest}},
            "shards": tuple(
                shard.model_copy(update={"samples": size})
                for shard, size in zip(stated.shards, sizes, strict=True)
                if size
            ),
        }
    )


def _where(whole: Samples) -> str:
    """Return the location of the samples for messages."""
    more = len(whole.sets()) - 1
    return f"{whole.path} and {more} more" if more else str(whole.path)
