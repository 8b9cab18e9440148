"""The three heads of UML: mutual feature decoder, uncertainty navigator, uncertainty instructor (spec 3.3 to 3.5)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from uml_kernels import evidence, opinion

from ...backbones.compact import group_norm
from ...random import KeyedDropout


def resize(feature: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear interpolation of (B, channels, H, W) to another height and width, corners aligned."""
    return functional.interpolate(feature, tuple(size), mode="bilinear", align_corners=True)


def double(feature: Tensor) -> Tensor:
    """The feature at twice its height and width."""
    return resize(feature, (2 * feature.shape[2], 2 * feature.shape[3]))


def pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(inputs, outputs, 1, bias=False)


class DoubleConvolution(nn.Sequential):
    """Twice: 3x3 convolution, normalisation, ReLU, dropout of channels."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            convolution = nn.Conv2d(channels, outputs, 3, padding=1)
            layers += [convolution, group_norm(outputs), nn.ReLU(), KeyedDropout(dropout)]
        super().__init__(*layers)


class MutualDecoder(nn.Module):
    """Decodes the mixed features into evidence for each pixel.

    Args:
        mixed: channels of the four mixed features.
        hidden: channels between the two linear maps at the end.
        classes: C.
        dropout: probability.
    """

    def __init__(self, mixed: Sequence[int], hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        first, second, third, fourth = mixed
        self.third = DoubleConvolution(fourth, third, dropout)
        self.second = DoubleConvolution(2 * third, second, dropout)
        self.first = DoubleConvolution(2 * second, first, dropout)
        self.head = nn.Sequential(pointwise(2 * first, hidden), pointwise(hidden, classes))

    def forward(self, mixed: Sequence[Tensor]) -> Tensor:
        """Evidence (B, C, H, W), float32."""
        feature = mixed[3]
        for level, convolution in ((2, self.third), (1, self.second), (0, self.first)):
            feature = torch.cat((mixed[level], convolution(double(feature))), 1)
        return evidence(self.head(feature))


class MaskFusion(nn.Module):
    """Joins a feature with an embedding of a reliable mask."""

    def __init__(self, channels: int, outputs: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Sequential(pointwise(classes, channels), group_norm(channels), nn.ReLU(), KeyedDropout(dropout))
        self.out = pointwise(2 * channels, outputs)

    def forward(self, feature: Tensor, mask: Tensor, size: Sequence[int]) -> Tensor:
        """The joined feature (B, outputs, *size).

        It is resized before the last 1x1 convolution, with which bilinear interpolation commutes: the same result for
        less where the size is smaller.
        """
        joined = torch.cat((feature, self.embed(mask)), 1)
        return self.out(joined if joined.shape[2:] == size else resize(joined, size))


class UncertaintyNavigator(nn.Module):
    """Decodes the segmentation, with the mutual evidence and its vacuity as guide at the bottom and at the top.

    Args:
        segmented: channels of the segmentation encoder's four features.
        bottom: channels of the fourth mixed feature.
        classes: C.
        dropout: probability.
        detach_uncertainty: let no gradient pass through the gates.
    """

    def __init__(
        self, segmented: Sequence[int], bottom: int, classes: int, dropout: float, detach_uncertainty: bool
    ) -> None:
        super().__init__()
        first, second, third, fourth = segmented
        self.detach_uncertainty = detach_uncertainty
        self.widths = (2 * first, 2 * second, 2 * third, fourth)
        self.reduce = pointwise(fourth + bottom, fourth)
        self.bottom = MaskFusion(fourth, fourth, classes, dropout)
        self.third = DoubleConvolution(fourth, third, dropout)
        self.second = DoubleConvolution(2 * third, second, dropout)
        self.first = DoubleConvolution(2 * second, first, dropout)
        self.scores = nn.ModuleList(pointwise(width, classes) for width in self.widths)
        self.top = MaskFusion(2 * first, 2 * first, classes, dropout)

    def gate(self, vacuity: Tensor) -> Tensor:
        """exp(-vacuity), of (B, 1, H, W)."""
        return torch.exp(-(vacuity.detach() if self.detach_uncertainty else vacuity))

    def forward(self, segmented: Sequence[Tensor], mixed: Tensor, mutual: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        """Decode.

        Args:
            segmented: the segmentation encoder's four features.
            mixed: the fourth mixed feature.
            mutual: the evidence (B, C, H, W) of the mutual decoder.

        Returns:
            Logits of the four levels (B, C, H / 2^i, W / 2^i); reliable masks R_1 (B, C, H, W) and R_4
            (B, C, H / 8, W / 8); gates (B, 1, H, W) and (B, 1, H / 8, W / 8); and the feature for the classifier
            (B, channels, H / 8, W / 8), alone in a tuple.
        """
        small, vacuity = mixed.shape[2:], opinion(mutual).vacuity.unsqueeze(1)
        gate, small_gate = self.gate(vacuity), self.gate(resize(vacuity, small))

        fused = torch.cat((segmented[3], mixed), 1)
        feature = self.reduce(fused * small_gate.to(fused.dtype))
        fourth = self.scores[3](feature)
        small_mask = (fourth + resize(mutual, small)) * small_gate
        feature = self.bottom(feature, small_mask, small)

        logits = [fourth]
        for level, convolution in ((2, self.third), (1, self.second), (0, self.first)):
            feature = torch.cat((segmented[level], convolution(double(feature))), 1)
            logits.insert(0, self.scores[level](feature))
        mask = (logits[0] + mutual) * gate
        return tuple(logits), (mask, small_mask), (gate, small_gate), (self.top(feature, mask, small),)


class UncertaintyInstructor(nn.Module):
    """Classifies the image, with the navigator's feature as guide.

    Args:
        inputs: channels of the fourth mixed feature and the classification encoder's together.
        widths: channels of the four separable convolutions.
        guide: channels of the navigator's feature.
        classes: K.
        dropout: probability.
    """

    def __init__(self, inputs: int, widths: Sequence[int], guide: int, classes: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            depthwise = nn.Conv2d(inputs, inputs, 3, padding=2, dilation=2, groups=inputs, bias=False)
            layers += [depthwise, pointwise(inputs, width), group_norm(width), nn.ReLU()]
            inputs = width
        self.head = nn.Sequential(*layers)
        self.instruct = DoubleConvolution(guide, inputs, dropout)
        self.out = nn.Linear(inputs, classes, bias=False)

    def forward(self, classified: Tensor, mixed: Tensor, guide: Tensor) -> Tensor:
        """Evidence (B, K), float32."""
        feature = self.head(torch.cat((classified, mixed), 1))
        feature = feature + feature * self.instruct(guide)
        return evidence(self.out(feature.mean((2, 3))))
