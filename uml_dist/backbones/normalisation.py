"""The two normalisations of encoders: group normalisation, and batch normalisation frozen at given statistics."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Normalisation = Callable[[int], nn.Module]
"""Makes the normalisation of so many channels."""

CHANNELS_PER_GROUP = 8
EPSILON = 1e-5
"""Of torch.nn.BatchNorm2d. Published weights were trained with it: without it, as the authors of UML have it, a channel
of almost no variance is blown up."""


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation, at least 8 channels a group where there are as many.

    Unlike batch normalisation it has no state that ranks differ in.
    """
    most = max(1, channels // CHANNELS_PER_GROUP)
    return nn.GroupNorm(next(groups for groups in range(most, 0, -1) if channels % groups == 0), channels)


class FrozenBatchNorm(nn.Module):
    """`torch.nn.BatchNorm2d` in evaluation, whatever the mode: statistics and affine map are buffers and stay.

    Meant for given weights only: at its start it is the identity, and a network of identities does not train.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, feature: Tensor) -> Tensor:
        """Normalise (B, channels, H, W); the dtype stays.

        As one multiply-add: autograd then keeps no copy of the feature, as it would for `functional.batch_norm`.
        """
        scale = self.weight * (self.running_var + EPSILON).rsqrt()
        shift = self.bias - self.running_mean * scale
        scale, shift = (each.to(feature.dtype)[:, None, None] for each in (scale, shift))
        return torch.addcmul(shift, feature, scale)
