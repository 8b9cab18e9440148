"""V-Net for volumes, as used for semi-supervised segmentation of the left atrium (Milletari et al., 3DV 2016)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ..nn.keyed_dropout import KeyedDropout
from ..nn.recomputation import recomputed
from .normalisation import Normalisation

ENCODER = (1, 2, 3, 3, 3)
"""Convolutions of each stage of the encoder, at 1, 1/2, 1/4, 1/8 and 1/16 of the size."""

DECODER = (3, 3, 2, 1)
"""Convolutions of each stage of the decoder, at 1/8, 1/4, 1/2 and 1 of the size."""


def _block(convolution: nn.Module, outputs: int, norm: Normalisation) -> list[nn.Module]:
    return [convolution, norm(outputs), nn.ReLU()]


def _stage(channels: Sequence[int], norm: Normalisation) -> list[nn.Module]:
    """Return the layers of 3x3x3 convolutions between numbers of channels."""
    return [layer for pair in pairwise(channels) for layer in _block(nn.Conv3d(*pair, 3, padding=1), pair[1], norm)]


class VNet(nn.Module):
    """The trunk of the V-Net of UA-MT, DTC and UG-MCL: stages without residuals, and skip connections that are added.

    Args:
        channels: channels of the volume.
        width: channels of the first stage; every other stage of the encoder has twice those of the one before.
        norm: creates a normalisation layer for a number of channels.
        dropout: probability of dropping a channel after the bottleneck and after the last stage.
        checkpointing: whether to recompute activations in backward.

    Attributes:
        width: channels of the feature it returns.
        divisor: number by which every side of a volume must be divisible.
    """

    divisor = 16

    def __init__(
        self, channels: int, width: int, norm: Normalisation, dropout: float = 0.5, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.width = width
        self.checkpointing = checkpointing
        widths = [width * 2**level for level in range(len(ENCODER))]
        first, *deeper = (
            _stage([channels if level == 0 else wide, *(wide for _ in range(number))], norm)
            for level, (wide, number) in enumerate(zip(widths, ENCODER, strict=True))
        )
        down = (_block(nn.Conv3d(wide, 2 * wide, 2, stride=2), 2 * wide, norm) for wide in widths[:-1])
        self.encoder = nn.ModuleList(
            [nn.Sequential(*first), *(nn.Sequential(*pair[0], *pair[1]) for pair in zip(down, deeper, strict=True))]
        )
        up = [_block(nn.ConvTranspose3d(2 * wide, wide, 2, stride=2), wide, norm) for wide in reversed(widths[:-1])]
        self.up = nn.ModuleList(nn.Sequential(*layers) for layers in up)
        self.decoder = nn.ModuleList(
            nn.Sequential(*_stage([wide] * (number + 1), norm))
            for wide, number in zip(reversed(widths[:-1]), DECODER, strict=True)
        )
        self.bottleneck_dropout = KeyedDropout(dropout)
        self.last_dropout = KeyedDropout(dropout)

    def forward(self, volume: Tensor) -> Tensor:
        """Map a volume (B, channels, H, W, D), sides multiples of 16, to a feature (B, width, H, W, D)."""
        features = []
        for stage in self.encoder:
            volume = self._run(stage, volume)
            features.append(volume)
        feature = self.bottleneck_dropout(features.pop())
        for up, stage in zip(self.up, self.decoder, strict=True):
            feature = self._run(stage, self._run(up, feature) + features.pop())
        return self.last_dropout(feature)

    def _run(self, stage: nn.Module, feature: Tensor) -> Tensor:
        return recomputed(stage, feature) if self.checkpointing else stage(feature)
