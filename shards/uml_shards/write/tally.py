"""Counts and image statistics of a split, exact and independent of the order of the samples."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError
from ..format.manifest import Statistics
from ..importers.base import with_shares
from ..sample import IGNORE, Sample

EMPTY = "empty masks"
FULL = "masks without background"
CONSTANT = "images in which all values are equal"
UNKNOWN = "volumes with voxels of unknown size"

UNITS = {True: 65535, False: 1 << 64}
"""Fixed-point scale of the sums, by whether values are unsigned. Unsigned values are fractions of full scale, in units
of 1/65535 (an 8-bit step counts 257). All others are in units of 2^-64, in which the sums of signed integers and floats
over one volume are integers too."""


@dataclass
class Tally:
    """The manifest's counts and statistics, accumulated in integers.

    Attributes:
        samples: number of samples.
        labelled: number of samples with a label.
        masked: number of samples with a mask.
        class_counts: label -> number of samples.
        sizes: all image sizes (H, W) or (H, W, D).
        pixels: total number of pixels.
        scaled: whether the images are unsigned integers, whose values are fractions of full scale.
        sums: sum of the values of each channel, in `UNITS`.
        squares: sum of the squared values of each channel, in squares of `UNITS`.
        notes: text -> number of samples, see `Importer.note`.
    """

    samples: int = 0
    labelled: int = 0
    masked: int = 0
    class_counts: Counter[int] = field(default_factory=Counter)
    sizes: set[tuple[int, ...]] = field(default_factory=set)
    pixels: int = 0
    scaled: bool = True
    sums: list[int] = field(default_factory=list)
    squares: list[int] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return len(self.sums)

    @property
    def size(self) -> tuple[int, ...] | None:
        """(H, W) or (H, W, D) of all images, or None if sizes differ."""
        return next(iter(self.sizes)) if len(self.sizes) == 1 else None

    def add(self, sample: Sample, notes: Mapping[str, int] | None = None) -> None:
        """Add one decoded sample, and what the importer noted about it.

        Raises:
            ShardError: its image differs from earlier ones in channels, number of axes or kind of dtype.
        """
        *size, channels = sample.image.shape
        # Summing each channel separately is 16 times faster than over the first two axes of 256 x 256 x 3.
        sums = [_sums(sample.image[..., channel]) for channel in range(channels)]
        self.merge(
            Tally(
                samples=1,
                labelled=int(sample.label is not None),
                masked=int(sample.mask is not None),
                class_counts=Counter() if sample.label is None else Counter({sample.label: 1}),
                sizes={tuple(size)},
                pixels=math.prod(size),
                scaled=sample.image.dtype.kind == "u",
                sums=[total for total, _ in sums],
                squares=[square for _, square in sums],
                notes=Counter({**(notes or {}), **_properties(sample)}),
            )
        )

    def merge(self, other: "Tally") -> None:
        """Add another tally.

        Raises:
            ShardError: the images differ in channels, number of axes or kind of dtype.
        """
        if self.samples and other.samples:
            self._refuse_other(other)
        self.scaled = other.scaled if other.samples else self.scaled
        zeros = [0] * max(self.channels, other.channels)
        self.sums = [a + b for a, b in zip(self.sums or zeros, other.sums or zeros, strict=True)]
        self.squares = [a + b for a, b in zip(self.squares or zeros, other.squares or zeros, strict=True)]
        self.samples += other.samples
        self.labelled += other.labelled
        self.masked += other.masked
        self.class_counts.update(other.class_counts)
        self.sizes |= other.sizes
        self.pixels += other.pixels
        self.notes.update(other.notes)

    def summary(self) -> dict[str, int]:
        """Return the notes, with shares, sorted, and of volumes of different sizes the smallest side along each axis.

        Patches that are larger are padded, so users compare it with the size of their patches.
        """
        found = dict(self.notes)
        if self.size is None and all(len(size) == 3 for size in self.sizes):
            smallest = " x ".join(str(min(sides)) for sides in zip(*self.sizes, strict=True))
            found[f"volumes with at least {smallest} voxels"] = self.samples
        return with_shares(found)

    def statistics(self) -> Statistics:
        """Return mean and standard deviation of each channel, in exact integers up to the final division."""
        count = self.pixels
        whole = count * UNITS[self.scaled]
        return Statistics(
            mean=tuple(total / whole for total in self.sums),
            std=tuple(
                # Rounding may make the variance of a constant channel slightly negative.
                math.sqrt(max(count * square - total * total, 0) / whole**2)
                for total, square in zip(self.sums, self.squares, strict=True)
            ),
        )

    def _refuse_other(self, other: "Tally") -> None:
        if self.channels != other.channels:
            raise ShardError(
                f"images with {self.channels} and with {other.channels} channels in one split: convert them to the "
                "same number"
            )
        if len(next(iter(self.sizes))) != len(next(iter(other.sizes))):
            raise ShardError("images and volumes in one split: make two data sets of them")
        if self.scaled != other.scaled:
            raise ShardError("unsigned integers and other dtypes in one split: store all volumes in one dtype")


def _properties(sample: Sample) -> Counter[str]:
    """Return what a summary tells about a sample besides its counts: odd masks and images, and the size of voxels."""
    found: Counter[str] = Counter()
    if sample.mask is not None:
        marked = sample.mask[sample.mask != IGNORE]
        found[EMPTY] += int(not marked.any())
        found[FULL] += int(marked.size > 0 and bool(marked.all()))
    found[CONSTANT] += int(sample.image.min() == sample.image.max())
    if sample.image.ndim == 4:
        spacing = sample.meta.get("spacing")
        found[f"volumes with voxels of {' x '.join(f'{side:.4g}' for side in spacing)} mm" if spacing else UNKNOWN] += 1
    return +found


def _sums(plane: NDArray) -> tuple[int, int]:
    """Return the sum of the values and the sum of their squares, in `UNITS`."""
    if plane.dtype.kind == "u":
        scale, values = UNITS[True] // np.iinfo(plane.dtype).max, plane.astype(np.uint64).ravel()
        return scale * int(values.sum()), scale * scale * int(values @ values)
    values = plane.astype(np.float64)
    unit = UNITS[False]
    return int(float(values.sum()) * unit), int(float(np.square(values).sum()) * unit * unit)
