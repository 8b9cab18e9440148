"""Batch normalisation over the global batch: one rank equals torch, and several ranks equal one."""

import pytest
import torch
import torch.distributed as distributed
from torch import nn

from runs import train, uml_tree
from uml_dist.backbones.normalisation import GlobalBatchNorm
from worlds import run_world

pytestmark = pytest.mark.distributed

SAMPLES, CHANNELS = 8, 5


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (SAMPLES, CHANNELS, 4, 6)
    # A mean far from 0, for which sums of squares would lose digits.
    return 50 + torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def outcome(norm: nn.Module, feature: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return output, gradients and running statistics after one step on a feature."""
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 1.5, CHANNELS))
    feature = feature.clone().requires_grad_()
    output = norm(feature)
    ((output - target) ** 3).sum().backward()
    return {
        "output": output.detach(),
        "feature": feature.grad,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        "mean": norm.running_mean,
        "variance": norm.running_var,
    }


def on_this_rank() -> dict[str, list]:
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    feature, target = (each.chunk(ranks)[rank] for each in data())
    found = outcome(GlobalBatchNorm(CHANNELS), feature, target)
    for name in ("weight", "bias"):
        distributed.all_reduce(found[name])
    return {name: value.tolist() for name, value in found.items()}


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_any_number_of_ranks_equals_torch_s_batch_norm_over_the_global_batch(ranks):
    expected = outcome(nn.BatchNorm2d(CHANNELS), *data())
    answers = run_world(ranks, on_this_rank)
    for name, value in expected.items():
        parts = [torch.tensor(answer[name]) for answer in answers]
        combined = torch.cat(parts) if name in ("output", "feature") else parts[-1]
        assert torch.allclose(combined, value, rtol=2e-5, atol=2e-5 * value.abs().max().item()), name


@pytest.mark.parametrize(
    "words", [{"model__profile": "release", "model__norm": "group"}, {"model__head": "published"}], ids=str
)
def test_two_ranks_train_networks_with_batch_norm_like_one(partly_known, words):
    tree = uml_tree(partly_known, train__steps=3, **words)
    alone, together = (run_world(ranks, train, tree)[0] for ranks in (1, 2))
    assert together.losses == pytest.approx(alone.losses, rel=1e-5)
