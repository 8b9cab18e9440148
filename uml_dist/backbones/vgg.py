"""VGG-16 with normalisation, without its last stage.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015.
"""

import re
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from ..nn.fork import fork
from .normalisation import Normalisation
from .weights import Published

WIDTHS = (64, 128, 256, 512)
CONVOLUTIONS = (2, 2, 3, 3)
LAYERS_PER_CONVOLUTION = 3


def _positions() -> Iterator[tuple[int, int, int]]:
    """Yield (stage, convolution, index among the features) of every convolution; the first two count from 1."""
    place = 0
    for stage, convolutions in enumerate(CONVOLUTIONS, 1):
        for number in range(1, convolutions + 1):
            yield stage, number, place
            place += LAYERS_PER_CONVOLUTION
        place += 1  # the pooling


PUBLISHED = Published(
    unused=re.compile(r"features\.(3[4-9]|4\d)\..+|(classifier|pre_logits|head)\..+|conv5_[123]\..+"),
    first="features.0.weight",
    renamed={
        f"conv{stage}_{number}.{part}.{key}": f"features.{place + after}.{key}"
        for stage, number, place in _positions()
        for part, after, keys in (
            ("conv", 0, ("weight", "bias")),
            ("bn", 1, ("weight", "bias", "running_mean", "running_var")),
        )
        for key in keys
    },
)
"""Keys of torchvision's and timm's vgg16_bn, and of the JCS project's 5stages_vgg16_bn."""


class Vgg16(nn.Module):
    """Four stages of 3x3 convolutions, each normalised, with pooling between them.

    Args:
        channels: channels of the image.
        widths: channels of the four features, multiples of 8; the published ones are `WIDTHS`.
        norm: creates a normalisation layer for a number of channels.
    """

    def __init__(self, channels: int, widths: Sequence[int], norm: Normalisation) -> None:
        super().__init__()
        self.widths = tuple(widths)
        layers: list[nn.Module] = []
        for convolutions, width in zip(CONVOLUTIONS, self.widths, strict=True):
            layers += [nn.MaxPool2d(2)] if layers else []
            for _ in range(convolutions):
                convolution = nn.Conv2d(channels, width, 3, padding=1)
                nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
                layers += [convolution, norm(width), nn.ReLU()]
                channels = width
        # One flat list, numbered like the published weights.
        self.features = nn.ModuleList(layers)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map an image (B, channels, H, W), H and W multiples of 8, to features (B, widths[i], H / 2^i, W / 2^i)."""
        features = []
        for level in range(len(self.widths) - 1):
            feature, image = fork(self.stage(level, image), 2)
            features.append(feature)
        return (*features, self.stage(len(self.widths) - 1, image))

    def stage(self, level: int, feature: Tensor) -> Tensor:
        """Compute the feature of a level, 0 to 3, from that of the level above; level 0 from the image."""
        pools = [place for place, layer in enumerate(self.features) if isinstance(layer, nn.MaxPool2d)]
        start, stop = [0, *pools, len(self.features)][level : level + 2]
        for layer in list(self.features)[start:stop]:
            feature = layer(feature)
        return feature
