"""3-D U-Net for volumes, as in the code released with UG-MCL (Çiçek et al., MICCAI 2016)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..nn.keyed_dropout import KeyedDropout
from ..nn.recomputation import recomputed
from .normalisation import Normalisation

LEVELS = 5


class _Block(nn.Sequential):
    """Two 3x3x3 convolutions, each normalised and rectified."""

    def __init__(self, inputs: int, outputs: int, norm: Normalisation) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            convolution = nn.Conv3d(channels, outputs, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_in", nonlinearity="relu")
            layers += [convolution, norm(outputs), nn.ReLU()]
        super().__init__(*layers)


class UNet3d(nn.Module):
    """A U-Net with max pooling, trilinear upsampling, and skip connections that are concatenated.

    Args:
        channels: channels of the volume.
        width: channels of the first level; every deeper level has twice those of the one above.
        norm: creates a normalisation layer for a number of channels.
        dropout: probability of dropping a value after the bottleneck and after the last level.
        checkpointing: whether to recompute activations in backward.

    Attributes:
        width: channels of the feature it returns.
        divisor: number by which every side of a volume must be divisible.
    """

    divisor = 16

    def __init__(
        self, channels: int, width: int, norm: Normalisation, dropout: float = 0.3, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.width = width
        self.checkpointing = checkpointing
        widths = [width * 2**level for level in range(LEVELS)]
        inputs = [channels, *widths[:-1]]
        self.encoder = nn.ModuleList(_Block(*pair, norm) for pair in zip(inputs, widths, strict=True))
        self.decoder = nn.ModuleList(_Block(3 * wide, wide, norm) for wide in reversed(widths[:-1]))
        self.bottleneck_dropout = KeyedDropout(dropout, whole_channels=False)
        self.last_dropout = KeyedDropout(dropout, whole_channels=False)

    def forward(self, volume: Tensor) -> Tensor:
        """Map a volume (B, channels, H, W, D), sides multiples of 16, to a feature (B, width, H, W, D)."""
        features = []
        for level, block in enumerate(self.encoder):
            volume = self._run(block, functional.max_pool3d(volume, 2) if level else volume)
            features.append(volume)
        feature = self.bottleneck_dropout(features.pop())
        for block in self.decoder:
            upsampled = functional.interpolate(feature, scale_factor=2, mode="trilinear", align_corners=False)
            feature = self._run(block, torch.cat([features.pop(), upsampled], 1))
        return self.last_dropout(feature)

    def _run(self, block: nn.Module, feature: Tensor) -> Tensor:
        return recomputed(block, feature) if self.checkpointing else block(feature)
