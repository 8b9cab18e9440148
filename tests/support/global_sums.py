"""Means and sums over the global batch inside a world of ranks, with the gradients that an engine would make."""

import torch
import torch.distributed as distributed
from torch import Tensor

from uml_dist.distributed.global_batch import GlobalBatch

Answer = tuple[list[float], list[float]]
"""Value and gradient."""

FACTORS = (0.7, -0.3)


def mean_loss(factors: Tensor, samples: Tensor) -> Tensor:
    """What a masked mean sums: one summand a sample, over two factors."""
    return (factors[0] * samples).sin().sum() + (factors[1] * samples.square()).sum()


def class_sums(factors: Tensor, samples: Tensor) -> Tensor:
    """(2, 2): the intersections and sizes of two classes, as a Dice term sums them."""
    overlap = (factors[:, None] * samples).sigmoid()
    return torch.stack([(overlap * samples.abs()).sum(1), overlap.sum(1) + samples.abs().sum()])


def dice(sums: Tensor) -> Tensor:
    """A ratio of sums."""
    return (2.0 * sums[0] / sums[1]).sum()


def on_this_rank(parts: list[list[list[float]]]) -> dict[str, Answer]:
    """Mean and ratio of the global batch, from this rank's micro batches.

    Args:
        parts: rank -> micro batch -> samples; the ratio is formed where each rank has one micro batch.
    """
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    micro_batches = [torch.tensor(samples, dtype=torch.float64) for samples in parts[rank]]
    whole = GlobalBatch([{"samples": torch.tensor(len(samples))} for samples in micro_batches])
    answers = {"count": ([whole.count("samples").item()], [])}
    answers["mean"] = _as_an_engine_would(
        [lambda f, samples=samples: whole.mean(mean_loss(f, samples), "samples") for samples in micro_batches], ranks
    )
    if len(micro_batches) == 1:
        answers["dice"] = _as_an_engine_would([lambda f: dice(whole.total(class_sums(f, micro_batches[0])))], ranks)
    return answers


def _as_an_engine_would(losses: list, ranks: int) -> Answer:
    """Loss and gradient, averaged over micro batches and ranks."""
    factors = torch.tensor(FACTORS, dtype=torch.float64, requires_grad=True)
    value = torch.zeros((), dtype=torch.float64)
    for loss in losses:
        found = loss(factors) / len(losses)
        found.backward()
        value += found.detach()
    assert factors.grad is not None
    for tensor in (value, factors.grad):
        distributed.all_reduce(tensor)
        tensor /= ranks
    return [value.item()], factors.grad.tolist()
