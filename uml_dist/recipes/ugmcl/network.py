"""The network of UG-MCL: a trunk with a segmentation head and a head for the distance to the border."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from uml_kernels.layout import at_least_float32

from ...backbones.unet3d import UNet3d
from ...backbones.vnet import VNet


@dataclass(frozen=True)
class VolumeOutput:
    """What the network returns, in float32.

    Attributes:
        logits: (B, C, H, W, D), whose softmax is the probability of each class.
        distance: (B, D', H, W, D) in [-1, 1], negative inside: of each foreground class (D' = C - 1), or of each class
            if it is formed from the logits (D' = C); None without a distance task.
    """

    logits: Tensor
    distance: Tensor | None

    @property
    def probability(self) -> Tensor:
        """(B, C, H, W, D), probability of each class."""
        return self.logits.softmax(1)

    def soft_mask(self, slope: float) -> Tensor:
        """(B, C - 1, H, W, D), the share of each foreground class by its distance: sigmoid(-slope * distance)."""
        assert self.distance is not None
        foreground = self.logits.shape[1] - 1
        return torch.sigmoid(-slope * self.distance[:, -foreground:])

    def rows(self, start: int, stop: int | None = None) -> "VolumeOutput":
        """The output for some samples of the batch."""
        part = slice(start, stop)
        return VolumeOutput(self.logits[part], None if self.distance is None else self.distance[part])


class VolumeNetwork(nn.Module):
    """A trunk whose last feature is mapped to scores of classes and to distances by 1x1x1 convolutions.

    Args:
        trunk: maps a volume to a feature of the same size.
        classes: number of classes, background included.
        distance: "separate" for a head with tanh for each foreground class (the paper); "shared" for the tanh of the
            scores of all classes (the authors' code); "none".
        evidential: whether scores are evidence before softplus. The logits are then ln(1 + evidence), whose softmax is
            the expected probability of the Dirichlet distribution.
    """

    def __init__(
        self, trunk: VNet | UNet3d, classes: int, distance: str = "separate", evidential: bool = False
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.segmentation = nn.Conv3d(trunk.width, classes, 1)
        self.distance = nn.Conv3d(trunk.width, classes - 1, 1) if distance == "separate" else None
        self.shared = distance == "shared"
        self.evidential = evidential

    def forward(self, volume: Tensor) -> VolumeOutput:
        """Map volumes (B, channels, H, W, D), sides multiples of the trunk's divisor, to logits and distances."""
        feature = self.trunk(volume)
        scores = at_least_float32(self.segmentation(feature))
        distance = None
        if self.distance is not None:
            distance = torch.tanh(at_least_float32(self.distance(feature)))
        elif self.shared:
            distance = torch.tanh(scores)
        logits = torch.log1p(nn.functional.softplus(scores)) if self.evidential else scores
        return VolumeOutput(logits, distance)


def vacuity(logits: Tensor) -> Tensor:
    """Return the vacuity (B, *S) in (0, 1] of logits (B, C, *S) that are ln(1 + evidence): C / strength."""
    return logits.shape[1] * torch.exp(-logits.logsumexp(1))
