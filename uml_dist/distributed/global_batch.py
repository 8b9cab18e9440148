"""Sums and counts over the global batch, of which objectives form ratios.

A Dice term, a masked mean or a weighted mean is a ratio of sums over the global batch. The average of the ranks' ratios
differs from it (by 3 % on 2 ranks, 11 % on 4). So counts are added before the step, sums with a gradient are added over
the ranks here, and the ratio is formed last.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from .ranks import world_size


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks, whose gradient on each rank is the number of ranks times the upstream one.

    Every rank computes the same from the sum, so the upstream gradients are equal and need no communication. The factor
    cancels the engine's averaging of the gradients over ranks.
    """

    @staticmethod
    def forward(context: Any, local: Tensor) -> Tensor:
        total = local.detach().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * world_size()


def sum_over_ranks(local: Tensor) -> Tensor:
    """Sum a tensor over all ranks, with its gradient. Every rank must call it."""
    return _SumOverRanks.apply(local) if world_size() > 1 else local  # type: ignore[return-value]


class _MeanOverRanks(torch.autograd.Function):
    """Mean over ranks that each rank uses differently, so the upstream gradients differ and are averaged."""

    @staticmethod
    def forward(context: Any, local: Tensor) -> Tensor:
        return _mean(local)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _mean(gradient)


def _mean(local: Tensor) -> Tensor:
    total = local.detach().clone()
    distributed.all_reduce(total)
    return total / world_size()


def mean_over_ranks(local: Tensor) -> Tensor:
    """Average a tensor over all ranks, with its gradient, such as a statistic of the global batch inside a network.

    Every rank must call it and run backward through it.
    """
    return _MeanOverRanks.apply(local) if world_size() > 1 else local  # type: ignore[return-value]


class GlobalBatch:
    """The global batch to which the micro batches of a step belong. All ranks must create it.

    Args:
        counts: the counts that `Recipe.counts` returned for each micro batch of this rank, with the same names on every
            rank. They are summed over micro batches and ranks.
        stop: whether this rank asks all ranks to stop after the step.

    Attributes:
        stops: number of ranks that ask to stop, a float32 scalar on the device of the counts.
    """

    def __init__(self, counts: Sequence[Mapping[str, Tensor]], stop: bool = False) -> None:
        self.accumulation = len(counts)
        self.ranks = world_size()
        names = tuple(counts[0])
        sums = torch.stack([count.float() for one in counts for count in one.values()])
        sums = torch.cat([sums.reshape(self.accumulation, len(names)).sum(0), sums.new_full((1,), float(stop))])
        if self.ranks > 1:
            distributed.all_reduce(sums)
        *found, self.stops = sums.unbind()
        self._counts = dict(zip(names, found, strict=True))

    def count(self, name: str) -> Tensor:
        """Return a count over the global batch, a float32 scalar."""
        return self._counts[name]

    def divisor(self, name: str) -> Tensor:
        """Return the divisor that turns a sum over one micro batch into its share of a mean over the global batch.

        The engine averages gradients over ranks and micro batches, and the Trainer averages reported terms likewise, so
        the average of the shares is the mean. The divisor is at least 1 / (ranks * micro batches): if nothing counts,
        the mean is 0 and still in the graph.
        """
        return self.count(name).clamp(min=1.0) / (self.ranks * self.accumulation)

    def mean(self, local_sum: Tensor, name: str) -> Tensor:
        """Return this micro batch's share of a mean over the global batch: its sum divided by `divisor`."""
        return local_sum / self.divisor(name)

    @property
    def alone(self) -> bool:
        """Whether there is one rank, so `total` adds nothing."""
        return self.ranks == 1

    def total(self, local: Tensor) -> Tensor:
        """Sum a tensor over ranks, with its gradient, for a ratio of sums that is formed afterwards.

        Raises:
            RuntimeError: the step accumulates, so the ratio cannot be formed in one pass.
        """
        if self.accumulation > 1:
            raise RuntimeError("a ratio of sums over the global batch cannot be accumulated")
        return sum_over_ranks(local)
