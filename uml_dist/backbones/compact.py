"""A small convolutional encoder for demos, tests and laptops."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

CHANNELS_PER_GROUP = 8


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation, 8 channels a group: unlike batch normalisation it has no state that ranks differ in."""
    return nn.GroupNorm(max(1, channels // CHANNELS_PER_GROUP), channels)


class _Stage(nn.Module):
    """A 3x3 convolution that may halve the size, then a residual one."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.first_norm = group_norm(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = group_norm(outputs)
        for convolution in (self.first, self.second):
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, feature: Tensor) -> Tensor:
        feature = functional.relu(self.first_norm(self.first(feature)))
        return functional.relu(feature + self.second_norm(self.second(feature)))


class CompactEncoder(nn.Module):
    """Four stages; the first keeps the size, each other halves it.

    Args:
        channels: of the image.
        widths: channels of the four features, multiples of 8.
    """

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)
        inputs = (channels, *self.widths[:-1])
        strides = (1, *(2 for _ in self.widths[1:]))
        self.stages = nn.ModuleList(map(_Stage, inputs, self.widths, strides))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Features (B, widths[i], H / 2^i, W / 2^i) of an image (B, channels, H, W), H and W multiples of 8."""
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        return tuple(features)
