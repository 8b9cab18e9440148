"""A stream: the samples of a split in the order of a plan, read, augmented and of one size."""

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
from .joined import Samples

AHEAD = 64
"""Samples of a lane between the one that is read and the one whose shard is fetched meanwhile, if it has twice that."""


class Order(Protocol):
    """Which sample stands at which position: a `Plan`, or the plain order of an evaluation."""

    @property
    def stream(self) -> str:
        """The stream's name."""
        ...

    @property
    def seed(self) -> int:
        """Of all randomness in the stream."""
        ...

    @property
    def slots(self) -> int:
        """Samples of the stream in each global batch: what a lane's positions are apart."""
        ...

    def sample(self, position: int) -> int | None:
        """The number of the sample at a position; None for padding."""
        ...


@dataclass(frozen=True)
class Stream:
    """A named source of samples in a batch.

    Attributes:
        split: where the samples are.
        plan: which one stands at which position.
        size: (H, W) that every image is resized to, or (H, W, D) of the patch that is drawn from every volume.
        statistics: by which its images are to be normalised: those of the training data, whatever split this is.
        augment: name of an augmentation in `uml_shards.read.augment.AUGMENTATIONS`.
        on_bad_sample: stop with an error, or keep the bad sample's place with a placeholder of weight 0.
    """

    split: Samples
    plan: Order
    size: tuple[int, ...]
    statistics: Statistics
    augment: str = "none"
    on_bad_sample: Literal["error", "skip"] = "error"

    @property
    def name(self) -> str:
        """The stream's name, a word of every random key in it."""
        return self.plan.stream

    @property
    def ahead(self) -> int:
        """Steps between the sample that is read and the one whose shard is fetched meanwhile."""
        return min(AHEAD, len(self.split) // (2 * self.plan.slots))

    def sample(self, position: int) -> Sample:
        """The sample at a position, ready for a batch.

        Raises:
            ShardError: it cannot be read, and `on_bad_sample` is "error".
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
        """A sample in the stream's size."""
        if len(self.size) == 2:
            return resize(self.split.read(number), self.size)
        place = [float(keyed_uniform(self.plan.seed, self.name, position, "patch", axis)) for axis in range(3)]
        return self.split.read_patch(number, self.size, place)

    def placeholder(self, key: str, meta: Mapping[str, str] = MappingProxyType({})) -> Sample:
        """A sample of weight 0 in the shape of the others, which no loss and no metric counts."""
        manifest = self.split.manifest
        lesions = (len(manifest.mask_names),) if manifest.mask_names else ()
        return Sample(
            key=key,
            image=np.zeros((*self.size, manifest.channels), dtype=np.uint8),
            mask=np.full((*lesions, *self.size), IGNORE, dtype=np.uint8),
            weight=0.0,
            meta=meta,
        )
