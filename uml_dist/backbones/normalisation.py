"""Group normalisation, batch normalisation over all ranks, and batch normalisation with fixed statistics."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..distributed.global_batch import mean_over_ranks
from ..distributed.ranks import world_size

Normalisation = Callable[[int], nn.Module]
"""Creates a normalisation layer for a number of channels."""

CHANNELS_PER_GROUP = 8
EPSILON = 1e-5
"""The epsilon of torch.nn.BatchNorm2d, with which published weights were trained. Without it, as in the code of UML's
authors, a channel of almost no variance is amplified without bound."""


def group_norm(channels: int) -> nn.GroupNorm:
    """Create a group normalisation with at least 8 channels per group, if there are that many.

    Unlike batch normalisation, it has no state that could differ between ranks.
    """
    most = max(1, channels // CHANNELS_PER_GROUP)
    return nn.GroupNorm(next(groups for groups in range(most, 0, -1) if channels % groups == 0), channels)


class FrozenBatchNorm(nn.Module):
    """`torch.nn.BatchNorm2d` that is always in evaluation mode: its statistics and affine parameters are fixed buffers.

    Use it only with pretrained weights: initially it is the identity, and a network without normalisation does not
    train.

    Args:
        channels: channels of the feature.
        epsilon: added to the variance.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, epsilon: float = EPSILON) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, feature: Tensor) -> Tensor:
        """Normalise (B, channels, H, W); the dtype is preserved.

        This is a single multiply-add, for which autograd keeps no copy of the feature, unlike `functional.batch_norm`.
        """
        scale = self.weight * (self.running_var + self.epsilon).rsqrt()
        shift = self.bias - self.running_mean * scale
        scale, shift = (each.to(feature.dtype)[:, None, None] for each in (scale, shift))
        return torch.addcmul(shift, feature, scale)


class GlobalBatchNorm(nn.Module):
    """Batch normalisation with training statistics of the global batch, so that all ranks have the same state.

    On one rank it is `torch.nn.BatchNorm2d` for images, and `BatchNorm3d` for volumes.
    """

    running_mean: Tensor
    running_var: Tensor

    MOMENTUM = 0.1

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, feature: Tensor) -> Tensor:
        """Normalise (B, channels, *S); all ranks must have the same number of samples."""
        if not self.training or world_size() == 1:
            running = self.running_mean, self.running_var
            return functional.batch_norm(
                feature, *running, self.weight, self.bias, self.training, self.MOMENTUM, EPSILON
            )
        with torch.autocast(feature.device.type, enabled=False):
            values = feature if feature.dtype == torch.float64 else feature.float()
            others = (0, *range(2, feature.dim()))
            of_channels = (-1, *(1,) * (feature.dim() - 2))
            mean = mean_over_ranks(values.mean(others))
            values = values - mean.reshape(of_channels)
            variance = mean_over_ranks(values.square().mean(others))
            self._update(mean.detach(), variance.detach(), world_size() * feature.numel() // len(mean))
            scale = self.weight * (variance + EPSILON).rsqrt()
            shift = self.bias.reshape(of_channels)
            return torch.addcmul(shift, values, scale.reshape(of_channels)).to(feature.dtype)

    def _update(self, mean: Tensor, variance: Tensor, count: int) -> None:
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.MOMENTUM)
        unbiased = variance * (count / max(count - 1, 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.MOMENTUM)
