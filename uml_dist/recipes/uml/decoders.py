"""The three heads of UML: mutual feature decoder, uncertainty navigator, uncertainty instructor (spec 3.3 to 3.5)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from uml_kernels import gated, opinion, resized

from ...backbones.normalisation import GlobalBatchNorm
from ...nn.fork import fork
from ...nn.recomputation import recomputed
from .fusion import MaskFusion
from .layers import DoubleConvolution, JoinedPointwise, block_mean, pointwise, resize
from .model import UmlModel


class MutualDecoder(nn.Module):
    """Decodes the mixed features into scores, from which the evidence of each pixel is computed (`evidence.py`).

    Args:
        mixed: channels of the four mixed features.
        hidden: channels between the two linear maps at the end.
        classes: number of pixel classes, C.
        model: the configuration.
    """

    def __init__(self, mixed: Sequence[int], hidden: int, classes: int, model: UmlModel) -> None:
        super().__init__()
        first, second, third, fourth = mixed
        dropout, norm = model.dropout, model.decoder_normalisation
        self.third = DoubleConvolution(fourth, third, dropout, norm, upsample=True)
        self.second = DoubleConvolution(2 * third, second, dropout, norm, upsample=True)
        self.first = DoubleConvolution(2 * second, first, dropout, norm, upsample=True)
        points = model.resolved("space_to_depth") ** 2
        self.head = nn.Sequential(JoinedPointwise(2 * first, hidden), pointwise(hidden, classes * points))

    def forward(self, mixed: Sequence[Tensor]) -> Tensor:
        """Return scores (B, C s^2, H, W) of the s by s pixels of each block."""
        features = (mixed[3],)
        for level, convolution in ((2, self.third), (1, self.second), (0, self.first)):
            features = (mixed[level], convolution(features))
        return self.head(features)


class UncertaintyNavigator(nn.Module):
    """Decodes the segmentation, guided by the mutual evidence and its vacuity at the bottom and at the top.

    At both places, the scores of the feature plus the mutual opinion, multiplied by the gate, form a reliable mask,
    which is fused into the feature. As in the authors' code, the segmentation consists of the scores of the top mask,
    so the fusion at the top informs the classifier only. With `un_top_in_seg`, as in the paper's figure, another 1x1
    convolution computes the segmentation from the fused feature; the scores of the mask then have no loss of their own.

    Args:
        segmented: channels of the segmentation encoder's four features.
        bottom: channels of the fourth mixed feature.
        classes: number of pixel classes, C.
        model: the configuration.
        detach_uncertainty: whether gradients stop at the gates.
    """

    def __init__(
        self, segmented: Sequence[int], bottom: int, classes: int, model: UmlModel, detach_uncertainty: bool
    ) -> None:
        super().__init__()
        first, second, third, fourth = segmented
        dropout, norm = model.dropout, model.decoder_normalisation
        self.detach_uncertainty = detach_uncertainty
        self.mask_source = model.mask_source
        self.widths = (2 * first, 2 * second, 2 * third, fourth)
        self.reduce = pointwise(fourth + bottom, fourth)
        self.bottom = MaskFusion(fourth, fourth, classes, dropout, norm)
        self.third = DoubleConvolution(fourth, third, dropout, norm, upsample=True)
        self.second = DoubleConvolution(2 * third, second, dropout, norm, upsample=True)
        self.first = DoubleConvolution(2 * second, first, dropout, norm, upsample=True)
        self.block = model.resolved("space_to_depth")
        points = self.block**2
        outputs = (classes * points, classes, classes, classes)
        self.scores = nn.ModuleList(map(JoinedPointwise, self.widths, outputs))
        self.top = MaskFusion(2 * first, 2 * first, classes, dropout, norm)
        self.fused_scores = pointwise(2 * first, classes * points) if model.un_top_in_seg else None

    def forward(self, segmented: Sequence[Tensor], mixed: Tensor, mutual: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        """Decode.

        Args:
            segmented: the segmentation encoder's four features.
            mixed: the fourth mixed feature.
            mutual: logits (B, C, H, W) whose softplus is the evidence of each pixel.

        Returns:
            Logits of the four levels (B, C, H / 2^i, W / 2^i), the first (B, C s^2, H, W) of the s by s pixels of each
            block; reliable masks R_1 (B, C, H, W) and R_4 (B, C, H / 8, W / 8); gates (B, H, W) and (B, H / 8, W / 8);
            and the mutual opinion's vacuity (B, H, W) with the feature for the classifier (B, channels, H / 8, W / 8).
        """
        pixels = opinion(mutual)
        small, source = mixed.shape[2:], getattr(pixels, self.mask_source)
        gate, vacuity = pixels.gate, pixels.vacuity
        if self.detach_uncertainty:
            gate, vacuity = gate.detach(), vacuity.detach()
        small_gate = torch.exp(-resized(vacuity.unsqueeze(1), small).squeeze(1))

        feature = self.reduce(gated(torch.cat((segmented[3], mixed), 1), small_gate))
        fourth = self.scores[3]((feature,))
        small_mask = gated(resized(source, small), small_gate, fourth)
        features = (self.bottom((feature,), small_mask, small),)

        logits = [fourth]
        for level, convolution in ((2, self.third), (1, self.second), (0, self.first)):
            joined = (segmented[level], convolution(features))
            for_scores, features = zip(*(fork(feature, 2) for feature in joined), strict=True)
            logits.insert(0, self.scores[level](for_scores))
        mask = gated(source, gate, block_mean(logits[0], self.block))
        if self.fused_scores is None:
            guide = self.top(features, mask, small)
        else:
            fused = self.top(features, mask, mask.shape[2:])
            logits[0], guide = self.fused_scores(fused), resize(fused, small)
        return tuple(logits), (mask, small_mask), (gate, small_gate), (pixels.vacuity, guide)


class DilatedDepthwise(nn.Conv2d):
    """A depthwise 3x3 convolution of dilation 2, padded by repeated edges or zeros."""

    def __init__(self, channels: int, padding_mode: Literal["replicate", "zeros"]) -> None:
        super().__init__(
            channels, channels, 3, padding=2, dilation=2, groups=channels, bias=False, padding_mode=padding_mode
        )

    def forward(self, feature: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Convolve (B, channels, H, W)."""
        return recomputed(super().forward, feature)


def adapted_separable(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    """Return a depthwise convolution, a 1x1 one and a ReLU, which keep the variance without normalisation."""
    depthwise = DilatedDepthwise(inputs, "replicate")
    across = nn.Conv2d(inputs, outputs, 1)
    nn.init.kaiming_normal_(depthwise.weight, nonlinearity="linear")
    nn.init.kaiming_normal_(across.weight, nonlinearity="relu")
    nn.init.zeros_(across.bias)  # type: ignore[arg-type]
    return depthwise, across, nn.ReLU()


def published_separable(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    """Return a depthwise convolution, a 1x1 one, batch normalisation and a ReLU, as in the authors' code."""
    layers = DilatedDepthwise(inputs, "zeros"), pointwise(inputs, outputs)
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return *layers, GlobalBatchNorm(outputs), nn.ReLU()


UNINFORMED = -1.0
"""Initial score of the classifier: softplus(-1) = 0.31 is the evidence that minimises the loss, KL term included, for
an uninformative image of two classes. From other scores the features first learn to move all evidence alike, and become
equal for all images: after 2500 images of the phantom the AUROC was 0.60, and 0.81 from this score."""


class UncertaintyInstructor(nn.Module):
    """Classifies the image, guided by the navigator's feature.

    The published head has batch normalisation, zero padding and a last layer without bias (`model.head = "published"`).
    The adapted head has no normalisation, since group normalisation divides by the contrast of a sample, which depends
    on its class. It does not pad with zeros, which reach the middle of a small feature.

    Args:
        inputs: channels of the fourth mixed feature and of the classification encoder, in total.
        widths: channels of the four separable convolutions.
        guide: channels of the navigator's feature.
        classes: number of image classes, K.
        model: the configuration.
    """

    def __init__(self, inputs: int, widths: Sequence[int], guide: int, classes: int, model: UmlModel) -> None:
        super().__init__()
        published = model.resolved("head") == "published"
        separable = published_separable if published else adapted_separable
        layers: list[nn.Module] = []
        for width in widths:
            layers += separable(inputs, width)
            inputs = width
        self.head = nn.Sequential(*layers)
        self.instruct = DoubleConvolution(guide, inputs, model.dropout, model.decoder_normalisation)
        self.out = nn.Linear(inputs, classes, bias=not published)
        if not published:
            nn.init.normal_(self.out.weight, std=0.01)
            nn.init.constant_(self.out.bias, UNINFORMED)

    def forward(self, classified: Tensor, mixed: Tensor, guide: Tensor) -> Tensor:
        """Return logits (B, K) whose softplus is the evidence."""
        feature = self.head(torch.cat((classified, mixed), 1))
        feature = feature + feature * self.instruct(guide)
        return self.out(feature.mean((2, 3)))
