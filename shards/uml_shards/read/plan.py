"""The plan: a pure function from each position of a stream to the sample at this position.

In every epoch the shards are permuted and their samples concatenated. This sequence is divided into as many equal
contiguous ranges as the stream has slots in the global batch. Slot j walks through range j, shuffled within a window.
A global batch therefore takes samples from many different places, while a rank, which owns some of the slots, reads
almost sequentially from its own part of the shards.

A remainder that does not fill all slots is carried over to the beginning of the next epoch: with N samples and B slots,
epoch e covers places [B floor(e N / B), B floor((e + 1) N / B)) of the infinite sequence of all epochs. No samples are
dropped or padded, every place of the sequence is visited exactly once, and the state of a stream is a single integer:
the number of samples it has produced. The plan does not depend on the number of ranks or workers.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError
from ..keyed import keyed_permutation


class Plan:
    """The order of one stream.

    Args:
        shard_samples: number of samples in each shard, in manifest order.
        slots: number of samples of this stream in each global batch.
        seed: the run's random seed.
        stream: name of the stream; streams with different names are shuffled differently.
        window: number of samples within which a slot shuffles. A larger window mixes better, a smaller one reads more
            sequentially.

    Raises:
        ShardError: there are no samples or no slots, or the window is empty.
    """

    def __init__(
        self, shard_samples: Sequence[int], slots: int, seed: int = 0, stream: str = "train", window: int = 256
    ) -> None:
        self.shard_samples = np.asarray(shard_samples, dtype=np.int64)
        self.samples = int(self.shard_samples.sum())
        self.slots = slots
        self.seed = seed
        self.stream = stream
        self.window = window
        if self.samples < 1 or slots < 1 or window < 1:
            raise ShardError(
                f"stream {stream} is not valid: {self.samples} samples, {slots} slots, window {window}: each must be "
                "at least 1"
            )
        self._first = np.cumsum(self.shard_samples) - self.shard_samples
        self._line = lru_cache(maxsize=4)(self._shuffled_shards)
        self._window = lru_cache(maxsize=4 * slots)(self._shuffled_window)

    def __reduce__(self) -> tuple[type["Plan"], tuple[Any, ...]]:
        return Plan, (self.shard_samples.tolist(), self.slots, self.seed, self.stream, self.window)

    def first_step(self, epoch: int) -> int:
        """Return the first step of an epoch."""
        return epoch * self.samples // self.slots

    def epoch(self, step: int) -> int:
        """Return the epoch of a step."""
        return -(-(step + 1) * self.slots // self.samples) - 1

    def sample(self, position: int) -> int:
        """Return the number of the sample at a position. Samples are counted over the shards in manifest order.

        Args:
            position: step * slots + slot, from 0.
        """
        step, slot = divmod(position, self.slots)
        epoch = self.epoch(step)
        window, inside = divmod(step - self.first_step(epoch), self.window)
        return self._window(epoch, slot, window).item(inside)

    def _shuffled_window(self, epoch: int, slot: int, window: int) -> NDArray[np.int64]:
        """Return the numbers of a slot's samples in one window."""
        first = self.first_step(epoch)
        length = self.first_step(epoch + 1) - first
        size = min(self.window, length - window * self.window)
        order = keyed_permutation(size, self.seed, self.stream, "window", epoch, slot, window)
        return self._at(self.slots * first + slot * length + window * self.window + order)

    def _at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the samples at places of the infinite sequence."""
        numbers = np.empty_like(places)
        lines, offsets = np.divmod(places, self.samples)
        for line in np.unique(lines):
            here = lines == line
            begins, firsts = self._line(int(line))
            rank = np.searchsorted(begins, offsets[here], side="right") - 1
            numbers[here] = firsts[rank] + offsets[here] - begins[rank]
        return numbers

    def _shuffled_shards(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return, for an epoch's shard order, each shard's first place and the number of its first sample."""
        order = keyed_permutation(len(self.shard_samples), self.seed, self.stream, "shards", epoch)
        sizes = self.shard_samples[order]
        return np.cumsum(sizes) - sizes, self._first[order]


class InOrder:
    """The plan of an evaluation: every sample once, in the manifest's order, followed by padding.

    Args:
        samples: number of samples in the split.
    """

    stream = "evaluation"
    seed = 0
    slots = 1

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def sample(self, position: int) -> int | None:
        """Return the sample at a position; None for padding."""
        return position if position < self.samples else None


def owned_slots(slots: int, rank: int, ranks: int) -> range:
    """Return the slots of a global batch that a rank owns: contiguous, and the same number on every rank.

    Raises:
        ShardError: the number of ranks does not divide the slots; the message lists the numbers that do.
    """
    if slots % ranks:
        valid = ", ".join(str(number) for number in range(1, slots + 1) if slots % number == 0)
        raise ShardError(f"{slots} samples per global batch cannot be shared by {ranks} ranks: use {valid} ranks")
    share = slots // ranks
    return range(rank * share, (rank + 1) * share)
