"""Fusion of a feature with an embedding of a reliable mask, by which UML's uncertainty guides (spec 3.4)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from uml_kernels.layout import at_least_float32

from ...backbones.normalisation import EPSILON, Normalisation, group_norm
from ...nn.keyed_dropout import KeyedDropout
from .layers import JoinedPointwise, pointwise, resize


class MaskEmbedding(nn.Module):
    """1x1 convolution of a mask, group normalisation, dropout of channels and ReLU, at some or all of its points.

    Convolution and normalisation are linear in the few classes of the mask. So the statistics over all points follow
    from the mean and covariance of the classes, and the channels are computed only where they are read. The module owns
    its weights, because ZeRO-3 gathers the parameters of the called module.
    """

    def __init__(self, classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        weight = nn.init.kaiming_normal_(torch.empty(channels, classes), mode="fan_out", nonlinearity="relu")
        self.weight = nn.Parameter(weight)
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.groups = group_norm(channels).num_groups
        self.dropout = KeyedDropout(dropout)

    def forward(self, mask: Tensor, points: Tensor) -> Tensor:
        """Return the embedding (B, channels, h, w) float32 of points (B, C, h, w) of a mask (B, C, H, W)."""
        with torch.autocast(mask.device.type, enabled=False):
            weight, scale, shift = map(at_least_float32, (self.weight, self.scale, self.shift))
            centre, deviation = self._statistics(mask, weight)
            scale = scale / deviation  # (B, channels)
            shift = shift - centre * scale
            values = points.flatten(2).transpose(1, 2) @ (scale.unsqueeze(2) * weight).transpose(1, 2)
            values = (values + shift.unsqueeze(1)).transpose(1, 2).unflatten(2, points.shape[2:])
            return self.dropout(values).relu_()

    def _statistics(self, mask: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation (B, channels) of each channel's group over all points."""
        flat = mask.flatten(2)
        mean = flat.mean(2)
        centred = flat - mean.unsqueeze(2)
        covariance = centred @ centred.transpose(1, 2) / flat.shape[2]  # (B, C, C)
        means = (mean @ weight.T).unflatten(1, (self.groups, -1))  # (B, groups, channels of one)
        variances = (weight @ covariance * weight).sum(2).unflatten(1, (self.groups, -1))
        centre = means.mean(2, keepdim=True)
        variance = (variances + (means - centre).square()).mean(2, keepdim=True)
        return centre.expand_as(means).flatten(1), (variance + EPSILON).sqrt().expand_as(means).flatten(1)


class DenseMaskEmbedding(nn.Sequential):
    """1x1 convolution of a mask, normalisation, dropout of channels and ReLU, computed at every point."""

    def __init__(self, classes: int, channels: int, dropout: float, norm: Normalisation) -> None:
        super().__init__(pointwise(classes, channels), norm(channels), KeyedDropout(dropout), nn.ReLU(inplace=True))


class MaskFusion(nn.Module):
    """Joins a feature with an embedding of a reliable mask.

    Args:
        channels: channels of the feature and of the embedding.
        outputs: output channels.
        classes: channels of the mask, C.
        dropout: probability of dropping a channel.
        norm: makes the normalisation; with group normalisation, the embedding is computed at some points only.
    """

    def __init__(self, channels: int, outputs: int, classes: int, dropout: float, norm: Normalisation) -> None:
        super().__init__()
        self.embed = (
            MaskEmbedding(classes, channels, dropout)
            if norm is group_norm
            else DenseMaskEmbedding(classes, channels, dropout, norm)
        )
        self.out = JoinedPointwise(2 * channels, outputs)

    def forward(self, features: Sequence[Tensor], mask: Tensor, size: Sequence[int]) -> Tensor:
        """Fuse features (B, some channels, H, W) with a mask (B, C, H, W) to (B, outputs, *size).

        Features are resized before the last 1x1 convolution. It commutes with bilinear interpolation, so the result is
        the same, and less work if the size is smaller.
        """
        if isinstance(self.embed, DenseMaskEmbedding):
            embedded = resize(self.embed(mask), size)
            features = [resize(feature, size) for feature in features]
        elif mask.shape[2:] == tuple(size):
            embedded = self.embed(mask, mask)
        else:
            rows, down = _neighbours(mask.shape[2], size[0], mask)
            columns, right = _neighbours(mask.shape[3], size[1], mask)
            # Only the four points around each output are needed: few if the size is much smaller.
            points = self.embed(mask, mask[:, :, rows][:, :, :, columns])
            points = torch.lerp(points[..., 0::2], points[..., 1::2], right)
            embedded = torch.lerp(points[:, :, 0::2], points[:, :, 1::2], down.unsqueeze(1))
            features = [resize(feature, size) for feature in features]
        return self.out((*features, embedded.to(features[0].dtype)))


def _neighbours(size: int, outputs: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points that `resize` reads along a dimension: two indices per output, and the weight of the second."""
    place = torch.arange(outputs, device=like.device, dtype=torch.float64) * ((size - 1) / max(outputs - 1, 1))
    low = place.long().clamp(max=max(size - 2, 0))
    pairs = torch.stack((low, (low + 1).clamp(max=size - 1)), 1).flatten()
    return pairs, (place - low).to(like.dtype)
