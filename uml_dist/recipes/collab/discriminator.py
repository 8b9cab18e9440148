"""The discriminator: tells lesion maps of images with annotated pixels from those of images with grades only."""

from itertools import pairwise

from torch import Tensor, nn

from uml_kernels.layout import at_least_float32

from ...backbones.normalisation import Normalisation

STAGES = 5


class Discriminator(nn.Module):
    """Five stages of two 3x3 convolutions, max pooling, ReLU and normalisation; then the mean over all places.

    Args:
        channels: channels of the input: lesion maps, and those of the image if it is conditioned on it.
        width: channels of the first stage; every other stage has twice those of the one before.
        norm: creates a normalisation layer for a number of channels.

    Attributes:
        smallest: smallest side of an input.
    """

    smallest = 2**STAGES

    def __init__(self, channels: int, width: int, norm: Normalisation) -> None:
        super().__init__()
        widths = [width * 2**stage for stage in range(STAGES)]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([channels, *widths]):
            first, second = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
            nn.init.kaiming_normal_(first.weight, mode="fan_in", nonlinearity="linear")
            nn.init.kaiming_normal_(second.weight, mode="fan_in", nonlinearity="relu")
            layers += [first, second, nn.MaxPool2d(2), nn.ReLU(inplace=True), norm(outputs)]
        self.stages = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, channels, H, W), both sides at least 32, to the logits (B,) of coming from annotated images."""
        pooled = self.stages(maps).mean((2, 3))
        return at_least_float32(self.head(pooled)).squeeze(1)
