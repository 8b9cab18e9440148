"""A rank's part of the global batches: its samples and its micro batches."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import gcd

from uml_shards.read.plan import owned_slots

from ..config.schema import RunConfig
from ..errors import UmlError


@dataclass(frozen=True)
class RankBatch:
    """One rank's part of each global batch.

    Attributes:
        rank: index of the rank.
        ranks: number of ranks.
        accumulation: number of micro batches in a step.
        counts: samples of each stream in a global batch.
    """

    rank: int
    ranks: int
    accumulation: int
    counts: Mapping[str, int]

    @property
    def micro_batch(self) -> int:
        """Number of samples of all streams in one micro batch of this rank."""
        return sum(self.counts.values()) // (self.ranks * self.accumulation)

    def micro_batches(self, step: int, first_positions: Mapping[str, int]) -> Iterator[dict[str, list[int]]]:
        """Yield the stream positions of each micro batch of a step.

        Args:
            step: index of the step, counted from the first positions.
            first_positions: the streams' positions at step 0.
        """
        for micro in range(self.accumulation):
            request = {}
            for name, count in self.counts.items():
                slots = owned_slots(count, self.rank, self.ranks)
                size = len(slots) // self.accumulation
                start = first_positions[name] + step * count + slots.start + micro * size
                request[name] = list(range(start, start + size))
            yield request


def rank_batch_of(config: RunConfig, counts: Mapping[str, int], rank: int, ranks: int) -> RankBatch:
    """Return a rank's part of the global batches, accumulated no more often than `train.micro_batch` requires.

    Args:
        config: the run's configuration.
        counts: samples of each stream in a global batch.
        rank: index of the rank.
        ranks: number of ranks.

    Raises:
        UmlError: the ranks do not divide the samples, or no accumulation fits.
    """
    for name, count in counts.items():
        if count % ranks:
            valid = ", ".join(str(number) for number in range(1, count + 1) if count % number == 0)
            raise UmlError(
                f"streams.{name}.count = {count} cannot be shared by {ranks} ranks: use {valid} ranks, or another count"
            )
    limit = config.train.micro_batch
    per_rank = [count // ranks for count in counts.values()]
    for accumulation in range(1, min(per_rank) + 1):
        fits = limit is None or sum(per_rank) // accumulation <= limit
        if fits and all(count % accumulation == 0 for count in per_rank):
            return RankBatch(rank, ranks, accumulation, counts)
    raise UmlError(
        f"train.micro_batch = {limit} is too small: {sum(per_rank)} samples per rank in {len(counts)} streams "
        f"split into no fewer than {sum(per_rank) // gcd(*per_rank)} at once"
    )
