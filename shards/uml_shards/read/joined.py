"""Concatenate several splits into one with a common manifest."""

import copy
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..address import Location
from ..errors import ShardError
from ..format.manifest import Manifest, Statistics
from ..sample import Sample

_SHARED = ("dimensions", "channels", "classes", "mask_classes", "mask_names", "tasks")


class Samples(Protocol):
    """The interface of a split as used by streams."""

    @property
    def path(self) -> Location:
        """Location of the split, for messages; of several splits, the first one's."""
        ...

    @property
    def manifest(self) -> Manifest:
        """Manifest of the split."""
        ...

    def __len__(self) -> int: ...

    def read(self, number: int) -> Sample:
        """Read, decode and check a sample."""
        ...

    def read_patch(self, number: int, size: Sequence[int], place: Sequence[float]) -> Sample:
        """Read a sample whose image and mask are a patch of the volume."""
        ...

    def prefetch(self, number: int) -> None:
        """Start to fetch the shard of a sample that will be read soon; never blocks."""
        ...

    def labels(self) -> NDArray[np.int32]:
        """Return the labels (N,) of all samples; -1 = not labelled."""
        ...

    def masked(self) -> NDArray[np.bool_]:
        """Return which samples (N,) have a mask."""
        ...

    def keys(self) -> tuple[str, ...]:
        """Return the keys of all samples."""
        ...

    def sizes(self) -> tuple[int, ...]:
        """Return the number of samples in each shard, without empty shards."""
        ...

    def sets(self) -> tuple[tuple[int, ...], ...]:
        """Return the shard sizes for each data set."""
        ...

    def without_truth(self) -> "Samples":
        """Return the same samples as bare images; no other component is read."""
        ...


class JoinedSplit:
    """The samples of several splits, numbered consecutively in the order of the splits.

    Args:
        splits: splits of the same classes, mask classes and channels.

    Attributes:
        path: location of the first split.
        manifest: combined manifest; its statistics weight each sample equally.

    Raises:
        ShardError: the splits differ in a property that must be the same within a stream.
    """

    def __init__(self, splits: Sequence[Samples]) -> None:
        self.splits = tuple(splits)
        self.path = splits[0].path
        self.manifest = _join(splits)
        self._ends = np.cumsum([len(split) for split in splits])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def labels(self) -> NDArray[np.int32]:
        """Return the labels (N,) of all samples, in order; -1 = not labelled."""
        return np.concatenate([split.labels() for split in self.splits])

    def masked(self) -> NDArray[np.bool_]:
        """Return which samples (N,) have a mask."""
        return np.concatenate([split.masked() for split in self.splits])

    def keys(self) -> tuple[str, ...]:
        """Return the keys of all samples, in order. Two splits may share keys."""
        return tuple(key for split in self.splits for key in split.keys())

    def sizes(self) -> tuple[int, ...]:
        """Return the number of samples in each shard."""
        return tuple(size for split in self.splits for size in split.sizes())

    def sets(self) -> tuple[tuple[int, ...], ...]:
        """Return the shard sizes for each split."""
        return tuple(split.sizes() for split in self.splits)

    def without_truth(self) -> "JoinedSplit":
        """Return the same samples as bare images; see `Split.without_truth`."""
        bare = copy.copy(self)
        bare.splits = tuple(split.without_truth() for split in self.splits)
        return bare

    def read(self, number: int) -> Sample:
        """Read, decode and check a sample.

        Raises:
            ShardError: the sample cannot be read; the message names shard, key and reason.
            IndexError: the number is out of range.
        """
        split, number = self._locate(number)
        return split.read(number)

    def read_patch(self, number: int, size: Sequence[int], place: Sequence[float]) -> Sample:
        """Read a sample whose image and mask are a patch of the volume; see `Split.read_patch`."""
        split, number = self._locate(number)
        return split.read_patch(number, size, place)

    def prefetch(self, number: int) -> None:
        """Start to fetch the shard of a sample; see `Split.prefetch`."""
        split, number = self._locate(number)
        split.prefetch(number)

    def _locate(self, number: int) -> tuple[Samples, int]:
        """Return the split of a sample and the sample's number in it."""
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)} in {len(self.splits)} splits")
        place = int(np.searchsorted(self._ends, number, side="right"))
        return self.splits[place], number - (int(self._ends[place]) - len(self.splits[place]))


def _join(splits: Sequence[Samples]) -> Manifest:
    manifests = [split.manifest for split in splits]
    first = manifests[0]
    for manifest, split in zip(manifests, splits, strict=True):
        for field in _SHARED:
            if getattr(manifest, field) != getattr(first, field):
                raise ShardError(
                    f"{splits[0].path} and {split.path} cannot be combined in one stream: their {field} differ: "
                    f"{_words(getattr(first, field))} and {_words(getattr(manifest, field))}"
                )
    sizes = {manifest.size for manifest in manifests}
    return first.model_copy(
        update={
            "size": first.size if len(sizes) == 1 else None,
            "components": tuple(sorted({name for manifest in manifests for name in manifest.components})),
            "labelled": sum(manifest.labelled for manifest in manifests),
            "masked": sum(manifest.masked for manifest in manifests),
            "class_counts": tuple(map(sum, zip(*(manifest.class_counts for manifest in manifests), strict=True))),
            "statistics": _pool(manifests),
            "shards": tuple(shard for manifest in manifests for shard in manifest.shards),
        }
    )


def _pool(manifests: Sequence[Manifest]) -> Statistics:
    """Return mean and standard deviation over all images, each weighted equally regardless of its size."""

    def moments(manifest: Manifest) -> NDArray[np.float64]:
        mean, std = np.asarray(manifest.statistics.mean), np.asarray(manifest.statistics.std)
        return np.stack([mean, std**2 + mean**2])

    samples = [manifest.samples for manifest in manifests]
    mean, square = np.average([moments(manifest) for manifest in manifests], axis=0, weights=samples)
    return Statistics(mean=tuple(mean.tolist()), std=tuple(np.sqrt(np.maximum(square - mean**2, 0)).tolist()))


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
