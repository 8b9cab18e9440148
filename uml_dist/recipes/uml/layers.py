"""Layers of UML's heads that store few activations at full resolution."""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

from torch import Tensor, nn
from torch.nn import functional

from ...backbones.normalisation import Normalisation, group_norm
from ...nn.keyed_dropout import KeyedDropout
from ...nn.recomputation import recomputed
from .upsampling import convolve_upsampled, convolves_faster_at_half_size


def resize(feature: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (B, channels, H, W) to another height and width by bilinear interpolation with aligned corners."""
    return functional.interpolate(feature, tuple(size), mode="bilinear", align_corners=True)


def to_pixels(scores: Tensor, block: int) -> Tensor:
    """Rearrange scores (B, C block^2, H, W) of blocks of pixels to those of an image (B, C, block H, block W)."""
    return scores if block == 1 else functional.pixel_shuffle(scores, block)


def block_mean(scores: Tensor, block: int) -> Tensor:
    """Return the mean (B, C, H, W) over the pixels of each block of scores (B, C block^2, H, W)."""
    return scores if block == 1 else scores.unflatten(1, (-1, block * block)).mean(2)


def pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 1x1 convolution without bias."""
    return nn.Conv2d(inputs, outputs, 1, bias=False)


class JoinedPointwise(nn.Conv2d):
    """A 1x1 convolution without bias of several features, which are not concatenated in memory."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1, bias=False)

    def forward(self, features: Sequence[Tensor]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return (B, outputs, H, W) for features (B, channels, H, W) with `inputs` channels in total."""
        weights = self.weight.split([feature.shape[1] for feature in features], 1)
        first, *others = map(functional.conv2d, features, weights)
        return sum(others, first)


class UpsamplingConvolution(nn.Conv2d):
    """A 3x3 convolution of several features after upsampling to twice their size.

    The features are neither concatenated in memory nor stored upsampled: that would be most of a decoder's memory.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return (B, outputs, 2 H, 2 W) for features (B, channels, H, W) with `inputs` channels in total."""
        if convolves_faster_at_half_size(features):
            assert self.bias is not None
            return convolve_upsampled(features, self.weight, self.bias)
        starts = accumulate((feature.shape[1] for feature in features), initial=0)
        parts: list[Tensor] = [
            recomputed(partial(self._convolve, start), feature)
            for start, feature in zip(starts, features, strict=False)
        ]
        return sum(parts[1:], parts[0])

    def _convolve(self, start: int, feature: Tensor) -> Tensor:
        """Convolve the feature that begins at input channel `start`; the bias is added to the first one."""
        weight = self.weight[:, start : start + feature.shape[1]]
        enlarged = resize(feature, [2 * side for side in feature.shape[2:]])
        return functional.conv2d(enlarged, weight, None if start else self.bias, padding=1)


class DoubleConvolution(nn.Sequential):
    """Two blocks of 3x3 convolution, normalisation, dropout of channels and ReLU.

    Dropout scales by non-negative numbers, so it can come before ReLU, which then works in place. Between the
    convolutions only the input of the first normalisation is stored; the rest is recomputed in backward.

    Args:
        inputs: input channels.
        outputs: output channels.
        dropout: probability of dropping a channel.
        norm: makes the normalisations.
        upsample: whether the input consists of features with `inputs` channels in total, which are upsampled first.
    """

    def __init__(self, inputs: int, outputs: int, dropout: float, norm: Normalisation, upsample: bool = False) -> None:
        first = UpsamplingConvolution(inputs, outputs) if upsample else nn.Conv2d(inputs, outputs, 3, padding=1)
        layers: list[nn.Module] = []
        for convolution in (first, nn.Conv2d(outputs, outputs, 3, padding=1)):
            layers += [convolution, norm(outputs), KeyedDropout(dropout), nn.ReLU(inplace=True)]
        super().__init__(*layers)
        # Batch norm would count the batch twice.
        self._recomputes = norm is group_norm

    def forward(self, features: Sequence[Tensor] | Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return (B, outputs, H, W) for (B, inputs, H, W), or for features of half the size."""
        first, *middle, second, norm, dropout, relu = self
        feature = first(features)

        def between(feature: Tensor) -> Tensor:
            for layer in (*middle, second):
                feature = layer(feature)
            return feature

        feature = recomputed(between, feature) if self._recomputes else between(feature)
        return relu(dropout(norm(feature)))
