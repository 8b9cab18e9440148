"""Res2Net-50 v1b (26w x 4s) with a full-resolution stem, without its last stage.

Source: Gao et al., "Res2Net: A New Multi-scale Backbone Architecture", TPAMI 2021; v1b is the authors' variant with
three 3x3 convolutions as stem and average pooling in the shortcuts. Modules have the names of the published weights.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..nn.fork import fork
from ..nn.recomputation import recomputed
from .normalisation import Normalisation
from .weights import Published

WIDTHS = (64, 256, 512, 1024)
BLOCKS = (3, 4, 6)
EXPANSION = 4
SCALES = 4
FEWEST_CHANNELS = 4
PUBLISHED = Published(unused=re.compile(r"(layer4|fc)\..+"), first="conv1.0.weight")
"""Keys of the authors' res2net50_v1b_26w_4s and of timm's res2net50d, whose names and shapes agree."""


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


class Block(nn.Module):
    """A residual block whose 3x3 convolution is split into four scales.

    Args:
        inputs: input channels.
        outputs: output channels.
        stride: stride of a stage's first block, which has a convolution in its shortcut; None for the other blocks.
        norm: creates a normalisation layer for a number of channels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int | None, norm: Normalisation) -> None:
        super().__init__()
        planes = outputs // EXPANSION
        width = max(FEWEST_CHANNELS, planes * 26 // 64)
        self.stride = stride
        self.conv1 = _convolution(inputs, SCALES * width, 1)
        self.bn1 = norm(SCALES * width)
        self.convs = nn.ModuleList(_convolution(width, width, 3, stride or 1) for _ in range(SCALES - 1))
        self.bns = nn.ModuleList(norm(width) for _ in range(SCALES - 1))
        self.conv3 = _convolution(SCALES * width, outputs, 1)
        self.bn3 = norm(outputs)
        self.downsample = None
        if stride is not None:
            pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
            self.downsample = nn.Sequential(pool, _convolution(inputs, outputs, 1), norm(outputs))

    def forward(self, feature: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        *parts, last = functional.relu(self.bn1(self.conv1(feature))).chunk(SCALES, 1)
        scales: list[Tensor] = []
        for part, convolution, norm in zip(parts, self.convs, self.bns, strict=True):
            # In a stage's first block the scales are independent.
            joined = part if self.stride is not None or not scales else scales[-1] + part
            scales.append(functional.relu(norm(convolution(joined))))
        scales.append(last if self.stride is None else functional.avg_pool2d(last, 3, self.stride, padding=1))
        shortcut = feature if self.downsample is None else self.downsample(feature)
        joined = torch.cat(scales, 1)
        if isinstance(self.bn3, nn.GroupNorm):
            # It would store its input, the block's widest feature, which is cheap to recompute.
            wide = recomputed(lambda feature: self.bn3(self.conv3(feature)), joined)
        else:
            wide = self.bn3(self.conv3(joined))
        return functional.relu(wide + shortcut)


class Res2Net50(nn.Module):
    """A stem and stages of 3, 4 and 6 blocks.

    In contrast to the published network, the stem has stride 1, so that the first feature has the image's size. The
    last stage and the classifier are not built, because their output would not be used.

    Args:
        channels: channels of the image.
        widths: channels of the four features, multiples of 8; the published ones are `WIDTHS`.
        norm: creates a normalisation layer for a number of channels.
    """

    def __init__(self, channels: int, widths: Sequence[int], norm: Normalisation) -> None:
        super().__init__()
        self.widths = tuple(widths)
        stem, *stages = self.widths
        self.conv1 = nn.Sequential(
            _convolution(channels, stem // 2, 3),
            norm(stem // 2),
            nn.ReLU(),
            _convolution(stem // 2, stem // 2, 3),
            norm(stem // 2),
            nn.ReLU(),
            _convolution(stem // 2, stem, 3),
        )
        self.bn1 = norm(stem)
        first, second, third = (
            nn.Sequential(
                Block(inputs, outputs, stride, norm), *(Block(outputs, outputs, None, norm) for _ in range(blocks - 1))
            )
            for inputs, outputs, stride, blocks in zip(self.widths, stages, (1, 2, 2), BLOCKS, strict=False)
        )
        self.layer1, self.layer2, self.layer3 = first, second, third

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map an image (B, channels, H, W), H and W multiples of 8, to features (B, widths[i], H / 2^i, W / 2^i)."""
        full, feature = fork(self.stage(0, image), 2)
        half, feature = fork(self.stage(1, feature), 2)
        quarter, feature = fork(self.stage(2, feature), 2)
        return full, half, quarter, self.stage(3, feature)

    def stage(self, level: int, feature: Tensor) -> Tensor:
        """Compute the feature of a level, 0 to 3, from that of the level above; level 0 from the image."""
        match level:
            case 0:
                return functional.relu(self.bn1(self.conv1(feature)))
            case 1:
                return self.layer1(functional.max_pool2d(feature, 3, 2, padding=1))
            case 2:
                return self.layer2(feature)
            case _:
                return self.layer3(feature)
