"""The generator of lesion maps: a U-Net that predicts each lesion independently of the others."""

from math import log
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from uml_kernels.layout import at_least_float32

from ...backbones.normalisation import Normalisation
from ...nn.recomputation import recomputed

BlockKind = Literal["plain", "xception"]

WEAK_EVIDENCE = -3.0
"""Score of a lesion's presence before training; its exponential, the evidence, is 0.05."""

POOLED = 4
"""Levels of the encoder that are pooled; the bottleneck follows."""


def _convolution(inputs: int, outputs: int, separable: bool) -> list[nn.Module]:
    """Return a 3x3 convolution; a separable one is pointwise first, and then has one kernel for each channel."""
    spatial = nn.Conv2d(outputs if separable else inputs, outputs, 3, padding=1, bias=False)
    if not separable:
        nn.init.kaiming_normal_(spatial.weight, mode="fan_in", nonlinearity="relu")
        return [spatial]
    pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
    spatial = nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs, bias=False)
    nn.init.kaiming_normal_(pointwise.weight, mode="fan_in", nonlinearity="linear")
    nn.init.kaiming_normal_(spatial.weight, mode="fan_in", nonlinearity="relu")
    return [pointwise, spatial]


class _Block(nn.Sequential):
    """Two convolutions, each normalised and rectified."""

    def __init__(self, inputs: int, outputs: int, norm: Normalisation, separable: bool) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            layers += [*_convolution(channels, outputs, separable), norm(outputs), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class _Level(nn.Module):
    """A block of the encoder and max pooling, with an optional strided 1x1 convolution past both."""

    def __init__(self, inputs: int, outputs: int, norm: Normalisation, separable: bool, shortcut: bool) -> None:
        super().__init__()
        self.block = _Block(inputs, outputs, norm, separable)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False) if shortcut else None

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, inputs, H, W) to features (B, outputs, H, W) and (B, outputs, H / 2, W / 2)."""
        full = self.block(feature)
        half = functional.max_pool2d(full, 2)
        return full, half if self.shortcut is None else half + self.shortcut(feature)


class LesionGenerator(nn.Module):
    """A U-Net with max pooling, transposed convolutions, and skip connections that are concatenated.

    The Xception variant has separable convolutions, except in the first level, and shortcuts past the second to the
    fourth level of the encoder.

    Args:
        channels: channels of the image.
        lesions: number of lesions, L, whose maps may overlap.
        width: channels of the first level; every deeper level has twice those of the one above.
        block: kind of the blocks.
        norm: creates a normalisation layer for a number of channels.
        scores: scores of a pixel for each lesion: one logit, or the two of the evidence against and for the lesion.
        prior: probability of each lesion in each pixel before training, below 1/2. Lesions cover few pixels: from 1/2
            on, the first hundreds of steps would learn no more than that (Lin et al. 2017, section 4.1).
        checkpointing: whether to recompute activations in backward.

    Attributes:
        divisor: number by which both sides of an image must be divisible.
    """

    divisor = 2**POOLED

    def __init__(
        self,
        channels: int,
        lesions: int,
        width: int,
        block: BlockKind,
        norm: Normalisation,
        scores: int = 1,
        prior: float = 0.01,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.scores = scores
        self.checkpointing = checkpointing
        separable = block == "xception"
        widths = [width * 2**level for level in range(POOLED + 1)]
        inputs = [channels, *widths]
        self.encoder = nn.ModuleList(
            _Level(inputs[level], widths[level], norm, separable and level > 0, separable and level > 0)
            for level in range(POOLED)
        )
        self.bottleneck = _Block(widths[-2], widths[-1], norm, separable)
        upwards = widths[-2::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * wide, wide, 2, stride=2) for wide in upwards)
        self.decoder = nn.ModuleList(_Block(2 * wide, wide, norm, separable) for wide in upwards)
        self.head = nn.Conv2d(width, lesions * scores, 1)
        self.head.bias = nn.Parameter(_first_scores(prior, scores).repeat(lesions))

    def forward(self, image: Tensor) -> Tensor:
        """Compute the scores of all lesions in images (B, channels, H, W), H and W multiples of 16.

        Returns:
            Logits (B, L, H, W), or scores (B, L, scores, H, W) if there are several, at least in float32.
        """
        run = recomputed if self.checkpointing else _call
        feature, skips = image, []
        for level in self.encoder:
            skip, feature = run(level, feature)
            skips.append(skip)
        feature = run(self.bottleneck, feature)
        for up, block in zip(self.up, self.decoder, strict=True):
            feature = run(block, torch.cat([up(feature), skips.pop()], 1))
        scores = at_least_float32(self.head(feature))
        return scores if self.scores == 1 else scores.unflatten(1, (-1, self.scores))


def _first_scores(prior: float, scores: int) -> Tensor:
    """Return the scores (scores,) of one lesion that give the probability `prior`: a logit, or evidence of absence."""
    odds = (1.0 - prior) / prior
    if scores == 1:
        return torch.tensor([-log(odds)])
    present = torch.tensor(WEAK_EVIDENCE)
    absent = odds * (1.0 + present.exp()) - 1.0
    return torch.stack([absent.log(), present])


def _call(module: nn.Module, feature: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    return module(feature)
