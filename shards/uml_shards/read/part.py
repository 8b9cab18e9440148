"""A part of a split: the samples whose truth a stream may know, or all the others without theirs."""

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
    """Some samples of a split, by number, in its order.

    The samples of the part "unlabelled" are bare images whatever the shards hold: at their labels, their masks and what
    else their json says nobody looks, so that nothing of it can reach a training.

    Args:
        whole: the split, or several as one.
        name: of the part.
        labelled: (N,) which samples of the whole are labelled; the others are unlabelled.

    Attributes:
        path: of the whole.
        numbers: of the part's samples in the whole, ascending.
        manifest: what the whole's says, with the counts of the part; its digest tells which samples are in it.
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
        """A sample, decoded and checked.

        Raises:
            ShardError: it cannot be read; the message names shard, key and reason.
            IndexError: there is no such sample.
        """
        return self._whole.read(self._number(number))

    def read_patch(self, number: int, size: Sequence[int], place: Sequence[float]) -> Sample:
        """A sample of which image and mask are a patch of the volume; see `Split.read_patch`."""
        return self._whole.read_patch(self._number(number), size, place)

    def prefetch(self, number: int) -> None:
        """Begin to fetch the shard of a sample; see `Split.prefetch`."""
        self._whole.prefetch(self._number(number))

    def labels(self) -> NDArray[np.int32]:
        """The labels (N,) of the part; -1 = not labelled."""
        return self._whole.labels()[self.numbers]

    def masked(self) -> NDArray[np.bool_]:
        """Which samples (N,) of the part have a mask."""
        return self._whole.masked()[self.numbers]

    def keys(self) -> tuple[str, ...]:
        """The keys of the part, in order."""
        keys = self._whole.keys()
        return tuple(keys[number] for number in self.numbers)

    def sizes(self) -> tuple[int, ...]:
        """Samples of the part in each shard that has any."""
        return tuple(size for sizes in self.sets() for size in sizes)

    def sets(self) -> tuple[tuple[int, ...], ...]:
        """The same, for each data set; () for one that has none."""
        return tuple(tuple(size for size in sizes if size) for sizes in self._sets)

    def without_truth(self) -> "SplitPart":
        """The same samples as bare images; see `Split.without_truth`."""
        chosen = np.zeros(len(self._whole), dtype=np.bool_)
        chosen[self.numbers] = True
        return SplitPart(self._whole, "unlabelled", ~chosen)

    def _number(self, number: int) -> int:
        """The number of a sample in the whole."""
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)} in a part of {self.path}")
        return int(self.numbers[number])


def part_of(whole: Samples, name: PartName, ids: Path | None = None) -> SplitPart:
    """A part of a split.

    Args:
        whole: the split, or several as one.
        name: of the part.
        ids: a file with the keys of the labelled samples, see `read_keys`; without one those of `with_truth` are.

    Raises:
        ShardError: the part is empty, the list cannot be read, names a key that is not there, that two data sets have,
            or of a sample with neither label nor mask.
    """
    labelled = with_truth(whole) if ids is None else _listed(whole, ids)
    if name == "labelled" and not labelled.any():
        raise ShardError(f"no sample of {_where(whole)} is labelled: none has a mask or a label")
    if name == "unlabelled" and labelled.all():
        why = f"list {ids} names them all" if ids else "all have their truth: name those to be used by labelled_ids"
        raise ShardError(f"no sample of {_where(whole)} is unlabelled: {why}")
    return SplitPart(whole, name, labelled)


def with_truth(whole: Samples) -> NDArray[np.bool_]:
    """Which samples (N,) have a mask, or, where no sample has one, a label."""
    masked = whole.masked()
    return masked if masked.any() else whole.labels() >= 0


def read_keys(path: Path) -> dict[str, int]:
    """Key -> its line, in a text file of one key a line; empty lines and those that begin with # do not count.

    Raises:
        ShardError: it cannot be read, holds no key, or one twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ShardError(f"list {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ShardError(f"list {path} is no text in UTF-8: write one key a line") from None
    found: dict[str, int] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        if line in found:
            raise ShardError(f"list {path}, line {number}: key {line!r} is in line {found[line]} already")
        found[line] = number
    if not found:
        raise ShardError(f"list {path} names no key: write one a line, or make it by `shards.py draw`")
    return found


def _listed(whole: Samples, path: Path) -> NDArray[np.bool_]:
    """Which samples a list names."""
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
    """Chosen samples in each shard of each data set, in the order of the whole's manifest."""
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
    """Where the samples are, for messages."""
    more = len(whole.sets()) - 1
    return f"{whole.path} and {more} more" if more else str(whole.path)
