"""A small convolutional encoder for demos, tests and laptops."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from .normalisation import Normalisation


class _Stage(nn.Module):
    """A 3x3 convolution that may halve the size, followed by a residual 3x3 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Normalisation) -> None:
        super().__init__()
        self.first_norm, self.second_norm = norm(outputs), norm(outputs)
        plain = isinstance(self.first_norm, nn.Identity)
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=plain)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=plain)
        for convolution in (self.first, self.second):
            nn.init.kaiming_normal_(convolution.weight, mode="fan_in" if plain else "fan_out", nonlinearity="relu")
        if plain:
            # Without normalisation, fan-in initialisation and residuals that start at zero preserve the feature scale
            # (Zhang et al., "Fixup initialization", ICLR 2019).
            nn.init.zeros_(self.second.weight)

    def forward(self, feature: Tensor) -> Tensor:
        feature = functional.relu(self.first_norm(self.first(feature)))
        return functional.relu(feature + self.second_norm(self.second(feature)))


class CompactEncoder(nn.Module):
    """Four stages; the first keeps the size, and each of the others halves it.

    Args:
        channels: channels of the image.
        widths: channels of the four features.
        norm: creates a normalisation layer for a number of channels; `nn.Identity` for none.
    """

    def __init__(self, channels: int, widths: Sequence[int], norm: Normalisation) -> None:
        super().__init__()
        self.widths = tuple(widths)
        inputs = (channels, *self.widths[:-1])
        strides = (1, *(2 for _ in self.widths[1:]))
        stages = zip(inputs, self.widths, strides, strict=True)
        self.stages = nn.ModuleList(_Stage(*stage, norm) for stage in stages)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map an image (B, channels, H, W), H and W multiples of 8, to features (B, widths[i], H / 2^i, W / 2^i)."""
        features = []
        for level in range(len(self.stages)):
            image = self.stage(level, image)
            features.append(image)
        return tuple(features)

    def stage(self, level: int, feature: Tensor) -> Tensor:
        """Compute the feature of a level, 0 to 3, from that of the level above; level 0 from the image."""
        return self.stages[level](feature)
