"""Counts and image statistics of a split, exact in whatever order its samples are added."""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError
from ..format.manifest import Statistics
from ..sample import Sample

UNITS = {True: 65535, False: 1 << 64}
"""Of the sums, by whether intensities are fractions of full scale: 16-bit values, of which an 8-bit one counts 257; or
2^-64, in which the sums of signed integers and of floats over one volume are whole numbers too."""


@dataclass
class Tally:
    """What a manifest says about samples, gathered in integers.

    Attributes:
        samples: number added.
        labelled: those with a label.
        masked: those with a mask.
        class_counts: label -> samples.
        sizes: every (H, W), or (H, W, D), seen.
        pixels: summed over the images.
        scaled: whether the images are of unsigned integers, whose values are fractions of full scale.
        sums: of the values of each channel, in `UNITS`.
        squares: of their squares, in squares of these units.
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

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return len(self.sums)

    @property
    def size(self) -> tuple[int, ...] | None:
        """(H, W) or (H, W, D) of all images, or None where they differ."""
        return next(iter(self.sizes)) if len(self.sizes) == 1 else None

    def add(self, sample: Sample) -> None:
        """Count one decoded sample.

        Raises:
            ShardError: its image has other channels, axes or kinds of values than those before.
        """
        *size, channels = sample.image.shape
        # Plane by plane: 16 times faster than sums over the first two axes of 256 x 256 x 3.
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
            )
        )

    def merge(self, other: "Tally") -> None:
        """Add what another tally counted.

        Raises:
            ShardError: its images have other channels, axes or kinds of values.
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

    def statistics(self) -> Statistics:
        """Mean and standard deviation of each channel; exact integers up to the last division."""
        count = self.pixels
        whole = count * UNITS[self.scaled]
        return Statistics(
            mean=tuple(total / whole for total in self.sums),
            std=tuple(
                # The squares of a constant in floats may sum up to a hair too little.
                math.sqrt(max(count * square - total * total, 0) / whole**2)
                for total, square in zip(self.sums, self.squares, strict=True)
            ),
        )

    def _refuse_other(self, other: "Tally") -> None:
        if self.channels != other.channels:
            raise ShardError(
                f"images of {self.channels} and of {other.channels} channels in one split: make them equal"
            )
        if len(next(iter(self.sizes))) != len(next(iter(other.sizes))):
            raise ShardError("images and volumes in one split: make two data sets of them")
        if self.scaled != other.scaled:
            raise ShardError("unsigned integers and other values in one split: store all volumes in one dtype")


def _sums(plane: NDArray) -> tuple[int, int]:
    """The sum of values, and that of their squares, in `UNITS`."""
    if plane.dtype.kind == "u":
        scale, values = UNITS[True] // np.iinfo(plane.dtype).max, plane.astype(np.uint64).ravel()
        return scale * int(values.sum()), scale * scale * int(values @ values)
    values = plane.astype(np.float64)
    unit = UNITS[False]
    return int(float(values.sum()) * unit), int(float(np.square(values).sum()) * unit * unit)
