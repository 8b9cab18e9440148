"""The model of UG-MCL: its configuration, and the networks that it builds."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator
from torch import nn

from ...backbones.normalisation import GlobalBatchNorm, Normalisation, group_norm
from ...backbones.unet3d import UNet3d
from ...backbones.vnet import VNet
from ...config.schema import ModelConfig

Backbone = Literal["vnet", "unet3d"]
Norm = Literal["group", "instance", "batch"]
HeadMode = Literal["separate", "shared"]

BACKBONES: dict[Backbone, type[VNet] | type[UNet3d]] = {"vnet": VNet, "unet3d": UNet3d}

NORMALISATIONS: dict[Norm, Callable[[int], nn.Module]] = {
    "group": group_norm,
    "instance": nn.InstanceNorm3d,
    "batch": GlobalBatchNorm,
}

WIDTH = 16
"""Channels of the first stage at width 1."""


class Profile(NamedTuple):
    """Defaults that belong together; each field is a key of `[model]` too."""

    backbone: Backbone
    norm: Norm
    head_mode: HeadMode
    dropout: float


PROFILES = {
    "paper": Profile("vnet", "group", "separate", 0.5),
    "release": Profile("unet3d", "instance", "shared", 0.3),
}


class UgmclModel(ModelConfig):
    """`[model]` of the recipe `ugmcl`."""

    profile: Literal["paper", "release"] = Field(
        default="paper",
        description="defaults that belong together, of this table and of [objective]: the paper's, or those of the "
        "authors' code",
    )
    backbone: Backbone | None = Field(
        default=None, description="network: vnet or unet3d; default: the profile's (vnet, or unet3d for release)"
    )
    width: float = Field(
        default=1.0, gt=0, le=16, description="factor of all channels; 1: the first stage has 16, the last one 256"
    )
    norm: Norm | None = Field(
        default=None,
        description="normalisation: group, instance, or batch over the global batch; default: the profile's (group, "
        "or instance for release)",
    )
    head_mode: HeadMode | None = Field(
        default=None,
        description="separate: a head of its own for the distances; shared: distances are the tanh of the "
        "segmentation's scores; default: the profile's (separate, or shared for release)",
    )
    dropout: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="probability of dropping a channel (vnet) or a value (unet3d) after the bottleneck and after the "
        "last stage; default: the profile's (0.5, or 0.3 for release)",
    )

    def resolved(self, key: str) -> Any:
        """Return the value of a key of `Profile`: this configuration's or, by default, the profile's."""
        value = getattr(self, key)
        return getattr(PROFILES[self.profile], key) if value is None else value

    @property
    def divisor(self) -> int:
        """Number by which every side of a patch must be divisible."""
        return BACKBONES[self.resolved("backbone")].divisor

    @property
    def has_batch_norm(self) -> bool:
        """Whether any layer uses statistics of the batch."""
        return self.resolved("norm") == "batch"

    def trunk(self, channels: int) -> VNet | UNet3d:
        """Build the network without its heads, for volumes with a number of channels."""
        norm: Normalisation = NORMALISATIONS[self.resolved("norm")]
        width = max(1, round(WIDTH * self.width))
        kind = BACKBONES[self.resolved("backbone")]
        return kind(channels, width, norm, self.resolved("dropout"), self.checkpointing)

    @model_validator(mode="after")
    def _recomputes_once(self) -> "UgmclModel":
        if self.checkpointing and self.has_batch_norm:
            raise ValueError(
                "checkpointing recomputes activations, and batch norm would count every batch twice: set "
                'checkpointing = false, or norm = "group"'
            )
        return self
