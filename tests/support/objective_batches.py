"""Random outputs of UML's network and batches with gaps, for tests of its objective."""

import torch
from torch.distributions import Dirichlet, kl_divergence
from torch.nn import functional

from uml_dist.batch import Batch
from uml_dist.recipes.uml.network import UmlOutput
from uml_dist.recipes.uml.objective import counts

IMAGE_CLASSES, PIXEL_CLASSES, SIZE = 2, 3, (13, 18)


def batch_of(mask, label, weight=None) -> Batch:
    samples = len(label)
    return Batch(
        image=torch.zeros(samples, 3, *SIZE),
        mask=mask.to(torch.uint8),
        label=torch.as_tensor(label),
        weight=torch.ones(samples) if weight is None else torch.as_tensor(weight),
        rng_key=torch.arange(samples),
        position=torch.arange(samples),
        keys=tuple(str(index) for index in range(samples)),
    )


def leaves_of(samples: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(IMAGE_CLASSES,), (PIXEL_CLASSES, *SIZE), (PIXEL_CLASSES, *SIZE)]
    shapes += [(PIXEL_CLASSES, 16 >> level, 24 >> level) for level in (1, 2, 3)]
    return [(torch.randn(samples, *shape, generator=generator) * 2).requires_grad_() for shape in shapes]


def output_of(leaves) -> UmlOutput:
    return UmlOutput(leaves[0], leaves[1], leaves[1][:, 0], tuple(leaves[2:]), (), (), (16, 24))


def part_of(batch: Batch, leaves, chosen):
    part = batch_of(batch.mask[chosen], batch.label[chosen], batch.weight[chosen])
    return part, [leaf.detach()[chosen].requires_grad_() for leaf in leaves]


def random_batch(samples: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(5)
    mask = torch.randint(0, PIXEL_CLASSES, (samples, *SIZE), generator=generator)
    mask[0, :4] = 255
    mask[1] = 255
    return batch_of(mask, torch.tensor([1, 0, -1, 1])[:samples])


def naive_dirichlet(evidence, target):
    """Expected cross-entropy and KL of rows of evidence, by digamma and torch's distributions."""
    alpha = evidence + 1
    hot = functional.one_hot(target, evidence.shape[1]).double()
    error = (hot * (torch.digamma(alpha.sum(1, keepdim=True)) - torch.digamma(alpha))).sum(1)
    return error, kl_divergence(Dirichlet(hot + (1 - hot) * alpha), Dirichlet(torch.ones_like(alpha)))


class Half:
    """One micro batch of two on one process: counts of the whole, sums of a part."""

    def __init__(self, batch: Batch) -> None:
        self.counts = counts(batch)

    def divisor(self, name):
        return self.counts[name].clamp(min=1)
