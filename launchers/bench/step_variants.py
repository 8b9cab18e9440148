"""Variants of a training step: as published or ours, float32 or bf16 autocast, with or without checkpointing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from naive_loss import naive_loss
from naive_state import give_statistics
from naive_uml import NaiveUml
from uml_dist.batch import Batch
from uml_dist.distributed.global_batch import GlobalBatch
from uml_dist.launch.precision import has_bf16
from uml_dist.nn.keyed_dropout import use_rng_key
from uml_dist.recipes.uml.model import UmlModel
from uml_dist.recipes.uml.network import UmlNetwork, UmlOutput
from uml_dist.recipes.uml.objective import UmlObjective, counts, uml_terms

PIXEL_CLASSES, IMAGE_CLASSES, CHANNELS = 3, 2, 3
FRACTION = 0.25
"""Fraction of the run: the weight of the KL terms is 0.5 there, so that they are computed and contribute."""

Step = Callable[[], float]
Kind = Literal["published", "frozen", "group"]
MODELS: dict[Kind, dict[str, Any]] = {
    "published": {"profile": "release"},
    "frozen": {
        "profile": "release",
        "frozen_epsilon": 1e-5,
        "decoder_norm": "group",
        "head": "adapted",
        "initialisation": "unit_gain",
    },
    "group": {"profile": "paper"},
}
"""Settings of networks with the paper's encoders: the authors'; ours with weight files; ours without."""
NAMES = {"published": "as published", "frozen": "ours, frozen encoders", "group": "ours, group norm"}


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    kind: Kind
    bf16: bool = False
    checkpointing: bool = False

    @property
    def name(self) -> str:
        """Name in the tables."""
        kept = ", checkpointing" if self.checkpointing else ""
        return f"{NAMES[self.kind]}, {'bf16' if self.bf16 else 'float32'}{kept}"


VARIANTS = (
    Variant("published"),
    Variant("frozen"),
    Variant("group"),
    Variant("group", checkpointing=True),
    Variant("group", bf16=True),
    Variant("group", bf16=True, checkpointing=True),
    Variant("published", bf16=True),
)


@dataclass(frozen=True)
class Setting:
    """The settings that all variants have in common.

    The profile is "paper", whose `MODELS` are compared, or "compact", which has no published counterpart. For "compact"
    the reference is a plain implementation at full resolution, with our compact encoders and the authors' norms
    elsewhere.
    """

    profile: str
    width: float
    size: int
    batch: int

    def model(self, kind: Kind, checkpointing: bool = False) -> UmlModel:
        """Return the configuration of one kind of network."""
        fields = MODELS[kind] if self.profile == "paper" else {"profile": self.profile}
        return UmlModel.model_validate({**fields, "width": self.width, "checkpointing": checkpointing})

    def data(self) -> Batch:
        """Return a batch of random images, masks and labels, the same at every call."""
        generator, shape = torch.Generator().manual_seed(1), (self.batch, self.size, self.size)
        return Batch(
            image=torch.randn(self.batch, CHANNELS, self.size, self.size, generator=generator),
            mask=torch.randint(0, PIXEL_CLASSES, shape, generator=generator).to(torch.uint8),
            label=torch.randint(0, IMAGE_CLASSES, (self.batch,), generator=generator),
            weight=torch.ones(self.batch),
            rng_key=torch.arange(self.batch),
            position=torch.arange(self.batch),
            keys=tuple(map(str, range(self.batch))),
        )


def kinds_of(setting: Setting) -> tuple[Kind, ...]:
    """Return the kinds of networks of a profile: the compact encoders have no frozen norms."""
    return ("published", "frozen", "group") if setting.profile == "paper" else ("published", "group")


def variants_of(setting: Setting) -> list[Variant]:
    """Return the rows of the table; bf16 only if the processor has instructions for it."""
    kinds, bf16 = kinds_of(setting), has_bf16(torch.device("cpu"))
    return [variant for variant in VARIANTS if variant.kind in kinds and (bf16 or not variant.bf16)]


def make_network(setting: Setting, kind: Kind, checkpointing: bool = False) -> nn.Module:
    """Create a variant's network; frozen norms use the statistics of the batch's features, as trained weights would."""
    torch.manual_seed(0)
    build = NaiveUml if kind == "published" else UmlNetwork
    network = build(setting.model(kind, checkpointing), CHANNELS, PIXEL_CLASSES, IMAGE_CLASSES)
    if kind != "group":
        give_statistics(network.eval(), setting.data().image)
    return network.train()


def loss_of(network: nn.Module, batch: Batch) -> Tensor:
    """Return the total loss, computed by the network's own implementation."""
    objective = UmlObjective()
    if isinstance(network, NaiveUml):
        return naive_loss(network(batch.image), batch.mask, batch.label, objective.kl_weight(FRACTION))
    with use_rng_key(batch.rng_key):
        output: UmlOutput = network(batch.image)
    return uml_terms(output, batch, GlobalBatch([counts(batch)]), objective, FRACTION)["loss"]


def make_step(network: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, bf16: bool) -> Step:
    """Create a step: forward, objective, backward and Adam; autocast as in the Trainer, weights in float32."""

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of(network, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def make_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    """Create the Adam optimizer, as in the paper."""
    return torch.optim.Adam(network.parameters(), lr=1e-5)
