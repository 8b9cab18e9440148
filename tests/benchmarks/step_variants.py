"""The variants of a training step: naive or ours, float32 or bf16 autocast, with or without checkpointing."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from naive_uml import NaiveUml, naive_loss, naive_state
from uml_dist.batch import Batch
from uml_dist.random import random_address
from uml_dist.recipes.uml.model import UmlModel
from uml_dist.recipes.uml.network import UmlNetwork, UmlOutput
from uml_dist.recipes.uml.objective import UmlObjective, counts, uml_terms
from uml_dist.reduce import GlobalBatch

PIXEL_CLASSES, IMAGE_CLASSES, CHANNELS = 3, 2, 3
FRACTION = 0.25
"""Of the run: the weight of the KL terms is 0.5, so that they are computed and count."""

Step = Callable[[], float]


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    naive: bool
    bf16: bool = False
    checkpointing: bool = False

    @property
    def name(self) -> str:
        precision = "bf16 autocast" if self.bf16 else "float32"
        kept = ", checkpointing" if self.checkpointing else ""
        return f"{'naive' if self.naive else 'ours'} {precision}{kept}"


VARIANTS = (
    Variant(naive=True),
    Variant(naive=False),
    Variant(naive=False, checkpointing=True),
    Variant(naive=False, bf16=True),
    Variant(naive=False, bf16=True, checkpointing=True),
    Variant(naive=True, bf16=True),
)


@dataclass(frozen=True)
class Setting:
    """What all variants have in common."""

    profile: str
    width: float
    size: int
    batch: int

    def model(self, checkpointing: bool = False) -> UmlModel:
        fields = {"profile": self.profile, "width": self.width, "checkpointing": checkpointing}
        return UmlModel.model_validate(fields)

    def data(self) -> Batch:
        generator, shape = torch.Generator().manual_seed(1), (self.batch, self.size, self.size)
        return Batch(
            image=torch.randn(self.batch, CHANNELS, self.size, self.size, generator=generator),
            mask=torch.randint(0, PIXEL_CLASSES, shape, generator=generator).to(torch.uint8),
            label=torch.randint(0, IMAGE_CLASSES, (self.batch,), generator=generator),
            weight=torch.ones(self.batch),
            address=torch.arange(self.batch),
            position=torch.arange(self.batch),
            keys=tuple(map(str, range(self.batch))),
        )


def make_ours(setting: Setting, checkpointing: bool = False) -> UmlNetwork:
    torch.manual_seed(0)
    return UmlNetwork(setting.model(checkpointing), CHANNELS, PIXEL_CLASSES, IMAGE_CLASSES)


def make_naive(setting: Setting, ours: UmlNetwork | None = None) -> NaiveUml:
    """A naive network, the same function as ours if one is given."""
    naive = NaiveUml(setting.model(), CHANNELS, PIXEL_CLASSES, IMAGE_CLASSES)
    if ours is not None:
        naive.load_state_dict(naive_state(ours.state_dict()))
    return naive


def loss_of(network: nn.Module, batch: Batch) -> Tensor:
    """The total loss, through the network's own implementation of it."""
    objective = UmlObjective()
    if isinstance(network, NaiveUml):
        return naive_loss(network(batch.image), batch.mask, batch.label, objective.kl_weight(FRACTION))
    with random_address(batch.address):
        output: UmlOutput = network(batch.image)
    return uml_terms(output, batch, GlobalBatch([counts(batch)]), objective, FRACTION)["loss"]


def make_step(network: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, bf16: bool) -> Step:
    """Forward, objective, backward and Adam; autocast as in the Trainer, weights in float32."""

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of(network, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def make_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=1e-5)
