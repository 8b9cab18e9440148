"""Trunks of the grader: backbones split where the lesions' attention acts.

The low part maps the image to a feature with many places, the high part maps such a feature to one vector. The grader
runs the high part on the image's feature, and on that feature weighted by the attention to each lesion.
"""

from itertools import pairwise
from math import log2
from typing import Literal

from torch import Tensor, nn

from ...backbones import ENCODERS, Encoder, EncoderChoice, EncoderName, scaled
from ...backbones.normalisation import FrozenBatchNorm, Normalisation

Backbone = Literal["small_cnn", "compact", "res2net50", "vgg16"]
"""The small CNN of the recipe, or an encoder of `uml_dist.backbones`."""

Stride = Literal[1, 2, 4]

WIDTH = 32
"""Width at which encoders with published weights have the published channels."""

HIGH_STAGES = 5


class SmallCnn(nn.Module):
    """Two convolutions, and five stages whose last feature has 1/32 of the image's size.

    Args:
        channels: channels of the image.
        width: channels of the low feature; every further stage has twice those of the one before.
        stride: side of the image divided by that of the low feature. The first stages of the high part do not pool
            then, so that the last feature has the same size.
        norm: creates a normalisation layer for a number of channels.

    Attributes:
        low_width: channels of the low feature.
        high_width: length of the vector.
        stride: as above.
    """

    def __init__(self, channels: int, width: int, stride: Stride, norm: Normalisation) -> None:
        super().__init__()
        self.low_width, self.high_width, self.stride = width, width * 2**HIGH_STAGES, stride
        halvings = int(log2(stride))
        layers: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(pairwise((channels, width // 2, width))):
            # With one halving, it is the second convolution that is strided.
            step = 2 if number >= 2 - halvings else 1
            layers += [_rectified(inputs, outputs, step), nn.ReLU(inplace=True), norm(outputs)]
        self.low_part = nn.Sequential(*layers)
        layers = []
        for stage in range(HIGH_STAGES):
            inputs, outputs = width * 2**stage, width * 2 ** (stage + 1)
            pooling = [nn.MaxPool2d(2)] if stage >= halvings else []
            layers += [_rectified(inputs, outputs, 1), *pooling, nn.ReLU(inplace=True), norm(outputs)]
        self.high_part = nn.Sequential(*layers)

    def low(self, image: Tensor) -> Tensor:
        """Map images (B, channels, H, W) to the low feature (B, low_width, H / stride, W / stride)."""
        return self.low_part(image)

    def high(self, low: Tensor) -> Tensor:
        """Map low features to vectors (B, high_width)."""
        return self.high_part(low).mean((2, 3))


def _rectified(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_in", nonlinearity="relu")
    return convolution


class EncoderTrunk(nn.Module):
    """An encoder of `uml_dist.backbones`, whose first feature of a stride is the low one.

    Args:
        encoder: computes features of 1, 1/2, 1/4 and 1/8 of the image's size.
        stride: side of the image divided by that of the low feature.

    Attributes:
        low_width: channels of the low feature.
        high_width: length of the vector.
        stride: as above.
    """

    def __init__(self, encoder: Encoder, stride: Stride) -> None:
        super().__init__()
        self.encoder = encoder
        self.level = int(log2(stride))
        self.low_width, self.high_width, self.stride = encoder.widths[self.level], encoder.widths[-1], stride

    def low(self, image: Tensor) -> Tensor:
        """Map images (B, channels, H, W) to the low feature (B, low_width, H / stride, W / stride)."""
        for level in range(self.level + 1):
            image = self.encoder.stage(level, image)
        return image

    def high(self, low: Tensor) -> Tensor:
        """Map low features to vectors (B, high_width)."""
        for level in range(self.level + 1, len(self.encoder.widths)):
            low = self.encoder.stage(level, low)
        return low.mean((2, 3))


Trunk = SmallCnn | EncoderTrunk


def encoder_choice(backbone: EncoderName, width: int, norm: Normalisation, weights: str | None = None) -> EncoderChoice:
    """Return an encoder whose channels are scaled by width / 32; with weights, its batch norm is frozen.

    Args:
        backbone: name of the encoder.
        width: 32 for the published channels.
        norm: creates a normalisation layer for a number of channels, if there are no weights.
        weights: file of published weights, which `EncoderChoice.check` and `EncoderChoice.load` read.
    """
    widths = scaled(ENCODERS[backbone].widths or tuple(WIDTH * 2**level for level in range(4)), width / WIDTH)
    frozen = weights is not None
    return EncoderChoice(backbone, widths, weights, frozen, FrozenBatchNorm if frozen else norm)


def build_trunk(
    backbone: Backbone, channels: int, width: int, stride: Stride, norm: Normalisation, weights: str | None = None
) -> Trunk:
    """Build a trunk with random weights; see `SmallCnn` and `encoder_choice`."""
    if backbone == "small_cnn":
        return SmallCnn(channels, width, stride, norm)
    return EncoderTrunk(encoder_choice(backbone, width, norm, weights).build(channels), stride)
