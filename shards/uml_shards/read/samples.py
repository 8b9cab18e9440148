"""The samples that a stream draws from: those of one or several splits, or a part of them."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError
from ..format.manifest import Manifest, Statistics
from ..sample import Sample
from .names import differing_names, with_names_of
from .split import Split

PartName = Literal["labelled", "unlabelled"]


class Samples:
    """Samples of one or several splits, numbered consecutively in the order of the splits.

    Args:
        splits: splits of the same channels, classes and mask classes; those of a split that states none are unknown.

    Attributes:
        path: location of the first split.
        manifest: the split's manifest, or the combined one of several, whose statistics weight each sample equally. The
            manifest of a part has the part's counts, and its digest depends on the chosen samples.
        digest: digest of that manifest, without the names of `with_names`.
        rows: numbers of a part's samples among those of all splits, ascending; None for all of them.

    Raises:
        ShardError: the splits differ in a property that must be the same within a stream.
    """

    def __init__(self, splits: Sequence[Split]) -> None:
        self.splits = tuple(splits)
        self.path = splits[0].path
        self.manifest = splits[0].manifest if len(splits) == 1 else _join(splits)
        self.digest = splits[0].digest if len(splits) == 1 else self.manifest.digest
        self.rows: NDArray[np.int64] | None = None
        self._ends = np.cumsum([len(split) for split in splits])

    def part(self, name: PartName, labelled: NDArray[np.bool_]) -> "Samples":
        """Return the labelled samples, or all others as bare images.

        Labels, masks and json of the part "unlabelled" are never read, whatever the shards contain, so they cannot
        affect a training.

        Args:
            name: name of the part.
            labelled: (N,) which samples are labelled.
        """
        whole = self if name == "labelled" else self.without_truth()
        return whole.chosen(labelled if name == "labelled" else ~labelled, "part", {"name": name})

    def chosen(
        self,
        members: NDArray[np.bool_],
        option: str,
        facts: Mapping[str, Any],
        rename: Callable[[str], str] = str,
    ) -> "Samples":
        """Return some of the samples.

        Args:
            members: (N,) which ones, at least one.
            option: entry of the options of their manifest that states the choice.
            facts: what it states, beside a digest of the numbers of the samples.
            rename: returns their split's name from that of all samples.
        """
        part, chosen = copy.copy(self), np.flatnonzero(members)
        part.rows = chosen if self.rows is None else self.rows[chosen]
        part.manifest = _manifest_of_part(self, part, option, facts, rename)
        part.digest = part.manifest.digest
        return part

    def without_truth(self) -> "Samples":
        """Return the same samples as bare images; see `Split.without_truth`."""
        bare = copy.copy(self)
        bare.splits = tuple(split.without_truth() for split in self.splits)
        return bare

    def without_masks(self) -> "Samples":
        """Return the same samples with their labels, but without masks, which are never read."""
        bare = copy.copy(self)
        bare.splits = tuple(split.without_masks() for split in self.splits)
        bare.manifest = self.manifest.model_copy(update={"masked": 0})
        return bare

    def with_names(self, other: Manifest, classes: bool = True, masks: bool = True) -> "Samples":
        """Return the same samples with the names of another manifest where theirs states none."""
        named = copy.copy(self)
        named.manifest = with_names_of(self.manifest, other, classes, masks)
        return named

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.rows is None else len(self.rows)

    def components(self, number: int) -> tuple[str, dict[str, bytes]]:
        """Read the key of a sample and the bytes of its components; see `Split.components`."""
        split, number = self._locate(number)
        return split.components(number)

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
        """Start to fetch the shard of a sample that will be read soon; see `Split.prefetch`."""
        split, number = self._locate(number)
        split.prefetch(number)

    def labels(self) -> NDArray[np.int32]:
        """Return the labels (N,) of all samples, in order; -1 = not labelled."""
        return self._chosen(np.concatenate([split.labels() for split in self.splits]))

    def masked(self) -> NDArray[np.bool_]:
        """Return which samples (N,) have a mask."""
        return self._chosen(np.concatenate([split.masked() for split in self.splits]))

    def keys(self) -> tuple[str, ...]:
        """Return the keys of all samples, in order. Two splits may share keys."""
        keys = tuple(key for split in self.splits for key in split.keys())
        return keys if self.rows is None else tuple(keys[row] for row in self.rows)

    def patients(self) -> tuple[str, ...]:
        """Return the patient of each sample, in order; "" where it is not known. See `Split.patients`."""
        patients = tuple(patient for split in self.splits for patient in split.patients())
        return patients if self.rows is None else tuple(patients[row] for row in self.rows)

    def sizes(self) -> tuple[int, ...]:
        """Return the number of samples in each shard, without empty shards."""
        return tuple(size for sizes in self.sets() for size in sizes)

    def sets(self) -> tuple[tuple[int, ...], ...]:
        """Return `sizes` of each split; () for a split without samples of the part."""
        return tuple(tuple(size for size in sizes if size) for sizes in self.shard_sizes())

    def shard_sizes(self) -> Iterator[list[int]]:
        """Yield the number of samples in every shard of each split, in the order of the manifest."""
        first = 0
        for split in self.splits:
            edges = first + np.cumsum([0, *split.sizes()])
            rows = edges if self.rows is None else np.searchsorted(self.rows, edges)
            yield np.diff(rows).tolist()
            first += len(split)

    def _chosen(self, values: NDArray[Any]) -> NDArray[Any]:
        return values if self.rows is None else values[self.rows]

    def _locate(self, number: int) -> tuple[Split, int]:
        """Return the split of a sample and the sample's number in it."""
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)} in {self}")
        row = number if self.rows is None else int(self.rows[number])
        place = int(np.searchsorted(self._ends, row, side="right"))
        return self.splits[place], row - (int(self._ends[place]) - len(self.splits[place]))

    def __str__(self) -> str:
        more = len(self.splits) - 1
        return f"{self.path} and {more} more" if more else str(self.path)


def _join(splits: Sequence[Split]) -> Manifest:
    for one, other in combinations(splits, 2):
        field = _differing(one.manifest, other.manifest)
        if field is not None:
            raise ShardError(
                f"{one.path} and {other.path} cannot be combined in one stream: their {field} differ: "
                f"{_words(getattr(one.manifest, field))} and {_words(getattr(other.manifest, field))}"
            )
    first = reduce(with_names_of, (split.manifest for split in splits))
    manifests = [with_names_of(split.manifest, first) for split in splits]
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


def _differing(one: Manifest, other: Manifest) -> str | None:
    """Return the first field that must be the same within a stream and is not."""
    if field := differing_names(one, other):
        return field
    fields = ["dimensions", "channels", *(["tasks"] if one.classes and other.classes else [])]
    return next((field for field in fields if getattr(one, field) != getattr(other, field)), None)


def _pool(manifests: Sequence[Manifest]) -> Statistics:
    """Return mean and standard deviation over all images, each weighted equally regardless of its size."""

    def moments(manifest: Manifest) -> NDArray[np.float64]:
        mean, std = np.asarray(manifest.statistics.mean), np.asarray(manifest.statistics.std)
        return np.stack([mean, std**2 + mean**2])

    samples = [manifest.samples for manifest in manifests]
    mean, square = np.average([moments(manifest) for manifest in manifests], axis=0, weights=samples)
    return Statistics(mean=tuple(mean.tolist()), std=tuple(np.sqrt(np.maximum(square - mean**2, 0)).tolist()))


def _manifest_of_part(
    whole: Samples, part: Samples, option: str, facts: Mapping[str, Any], rename: Callable[[str], str]
) -> Manifest:
    assert part.rows is not None
    labels, manifest = part.labels(), whole.manifest
    digest = hashlib.sha256(part.rows.astype("<i8").tobytes()).hexdigest()
    before, after = ([size for sizes in one.shard_sizes() for size in sizes] for one in (whole, part))
    # The manifest of a part lists no shard of which the part has no sample.
    sizes = [new for old, new in zip(before, after, strict=True) if old]
    return manifest.model_copy(
        update={
            "split": rename(manifest.split),
            "labelled": int((labels >= 0).sum()),
            "masked": int(part.masked().sum()),
            "class_counts": tuple(int((labels == number).sum()) for number in range(len(manifest.classes))),
            "options": {**manifest.options, option: {**facts, "sha256": digest}},
            "shards": tuple(
                shard.model_copy(update={"samples": size})
                for shard, size in zip(manifest.shards, sizes, strict=True)
                if size
            ),
        }
    )


def _words(value: object) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)
