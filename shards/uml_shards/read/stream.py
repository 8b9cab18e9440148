"""A stream: the samples of a split in the order of a plan, read, augmented and brought to one size."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol

import numpy as np

from ..errors import ShardError
from ..format.manifest import Statistics
from ..keyed import keyed_uniform
from ..sample import IGNORE, Sample
from .augment import AUGMENTATIONS, resize
from .samples import Samples
from .split import Split

AHEAD = 64
"""Largest number of steps by which the prefetched shards are ahead of the current sample."""


class Order(Protocol):
    """The order of a stream: a `Plan`, or the plain order of an evaluation."""

    @property
    def stream(self) -> str:
        """Name of the stream."""
        ...

    @property
    def seed(self) -> int:
        """Seed of all randomness in the stream."""
        ...

    @property
    def slots(self) -> int:
        """Number of samples of the stream in each global batch."""
        ...

    def sample(self, position: int) -> int | None:
        """Return the number of the sample at a position; None for padding."""
        ...


@dataclass(frozen=True)
class Stream:
    """A named source of samples in a batch.

    Attributes:
        split: the samples.
        plan: order of the samples.
        size: (H, W) to which every image is resized, or (H, W, D) of the patch drawn from every volume.
        statistics: statistics for normalising the images: those of the training data, for every split.
        augment: name of an augmentation in `uml_shards.read.augment.AUGMENTATIONS`; "none" for volumes.
        on_bad_sample: "error" stops at a bad sample; "skip" replaces it with a placeholder of weight 0.
        whole: whether volumes are read whole, in their own size; only placeholders have `size` then.

    Raises:
        ShardError: a standard deviation of the statistics is 0.
    """

    split: Samples | Split
    plan: Order
    size: tuple[int, ...]
    statistics: Statistics
    augment: str = "none"
    on_bad_sample: Literal["error", "skip"] = "error"
    whole: bool = False

    def __post_init__(self) -> None:
        assert len(self.size) == 2 or self.augment == "none", "volumes are not augmented while they are read"
        constant = [number for number, std in enumerate(self.statistics.std) if not std > 0]
        if constant:
            raise ShardError(
                f"{self.split.path}: channel {constant[0]} has standard deviation 0 in the training data, so images "
                'cannot be normalised by it: set data.normalise = "unit", or leave out the channel'
            )

    @property
    def name(self) -> str:
        """Name of the stream; part of all its random keys."""
        return self.plan.stream

    @property
    def ahead(self) -> int:
        """Number of steps between the current sample and the one whose shard is prefetched."""
        return min(AHEAD, len(self.split) // (2 * self.plan.slots))

    def sample(self, position: int) -> Sample:
        """Return the sample at a position, ready for a batch.

        Raises:
            ShardError: the sample cannot be read and `on_bad_sample` is "error".
        """
        number = self.plan.sample(position)
        if number is None:
            return self.placeholder("padding")
        soon = self.plan.sample(position + self.ahead * self.plan.slots)
        if soon is not None:
            self.split.prefetch(soon)
        try:
            sample = self._read(number, position)
        except ShardError as error:
            if self.on_bad_sample == "error":
                raise
            return self.placeholder(f"skipped-{number}", {"skipped": str(error), "reason": error.reason})
        change = AUGMENTATIONS[self.augment]
        return sample if change is None else change(sample, self.plan.seed, self.name, position)

    def _read(self, number: int, position: int) -> Sample:
        """Read a sample in the stream's size, or a whole volume."""
        if self.whole:
            return self.split.read(number)
        if len(self.size) == 2:
            return resize(self.split.read(number), self.size)
        place = [float(keyed_uniform(self.plan.seed, self.name, position, "patch", axis)) for axis in range(3)]
        return self.split.read_patch(number, self.size, place)

    def placeholder(self, key: str, meta: Mapping[str, str] = MappingProxyType({})) -> Sample:
        """Return a sample of weight 0 in the stream's shape, which is excluded from every loss and metric."""
        manifest = self.split.manifest
        lesions = (len(manifest.mask_names),) if manifest.mask_names else ()
        return Sample(
            key=key,
            image=np.zeros((*self.size, manifest.channels), dtype=np.uint8),
            mask=np.full((*lesions, *self.size), IGNORE, dtype=np.uint8),
            weight=0.0,
            meta=meta,
        )
