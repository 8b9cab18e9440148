"""Exact Euclidean distance maps of binary masks in 2-D and 3-D, on the device of the mask, without gradient."""

from typing import Any

import torch
from torch import Tensor

from uml_kernels.check import DEBUG
from uml_kernels.cpu import distance as cpu
from uml_kernels.operation import Operation

LARGEST = 2048
"""Maximum side in voxels: squared distances between voxels of unit spacing stay below 2^24, exact in float32."""
MOST_VOXELS = 2**31 - 2**16
"""Maximum number of voxels of a sample: kernels address them in 32 bits."""


def signed_distance(mask: Tensor, spacing: Tensor | None = None) -> Tensor:
    """Compute normalised signed distance maps: the target of a distance head.

    With d_out the distance of a background voxel to the nearest foreground voxel and d_in that of a foreground voxel to
    the nearest background voxel (0 at the other voxels), the result is d_out / max d_out - d_in / max d_in, with the
    maxima of the sample. At the inner boundary, the foreground voxels that share a face with a background voxel, it is
    0. It is positive exactly in the background. What lies beyond the border of the image is not background.

    Since a sample with both classes has minima of 0, this equals the common form (d - min d) / (max d - min d).

    Args:
        mask: (B, H, W) or (B, D, H, W), bool or uint8, any strides; every value but 0 is foreground.
        spacing: size of a voxel along each axis, (B, 2) or (B, 3), floating-point; None for voxels of size 1. A size
            that is not positive and finite makes the map of its sample NaN (`UML_KERNELS_DEBUG=1` raises an error).

    Returns:
        float32 in [-1, 1] of the mask's shape, contiguous. +1 everywhere for an empty mask, -1 for a full one.

    Raises:
        ValueError: shape, dtype or device is wrong, a side has no voxel or more than 2048, or a sample too many voxels.
    """
    return _signed_distance(*_volumes(mask, spacing)).view(mask.shape)


def distance(mask: Tensor, spacing: Tensor | None = None) -> Tensor:
    """Compute the distance of every voxel to the nearest foreground voxel, in the unit of the spacing.

    Args:
        mask: see `signed_distance`.
        spacing: see `signed_distance`.

    Returns:
        float32 of the mask's shape, contiguous; 0 in the foreground, +inf everywhere for an empty mask. With unit
        spacing it is torch's square root of an exact integer, else its relative error is below 5e-7.

    Raises:
        ValueError: see `signed_distance`.
    """
    return _distance(*_volumes(mask, spacing)).view(mask.shape)


def _volumes(mask: Tensor, spacing: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Check the arguments; return the mask as contiguous volumes (B, D, H, W), and their spacing (B, 3) in float32."""
    shape = tuple(mask.shape)
    if mask.dtype not in (torch.bool, torch.uint8):
        raise ValueError(f"mask of shape {shape} has dtype {mask.dtype}; it must be bool or uint8")
    if mask.dim() not in (3, 4):
        raise ValueError(f"mask has shape {shape}; it must be (samples, height, width) or (samples, depth, ...)")
    if not all(1 <= side <= LARGEST for side in shape[1:]) or mask[:1].numel() > MOST_VOXELS:
        raise ValueError(
            f"mask has shape {shape}; a side must be 1 to {LARGEST}, and a sample at most {MOST_VOXELS} voxels"
        )
    mask = mask.detach().contiguous()
    axes = len(shape) - 1
    if spacing is not None:
        if tuple(spacing.shape) != (shape[0], axes):
            raise ValueError(f"spacing has shape {tuple(spacing.shape)}; a mask of {shape} needs {(shape[0], axes)}")
        if not spacing.is_floating_point():
            raise ValueError(f"spacing has dtype {spacing.dtype}; it must be floating-point")
        if spacing.device != mask.device:
            raise ValueError(f"spacing is on {spacing.device} and the mask on {mask.device}: move it there")
        if DEBUG and not spacing.is_cuda and not ((spacing > 0) & spacing.isfinite()).all():
            raise ValueError(f"spacing is {spacing.tolist()}; sizes of voxels must be positive and finite")
        spacing = spacing.detach().float().contiguous()
    if axes == 2:
        mask = mask.unsqueeze(1)
        spacing = None if spacing is None else torch.cat([torch.ones_like(spacing[:, :1]), spacing], 1)
    return mask, spacing


def _shapes(mask: Tensor, spacing: Tensor | None) -> Tensor:
    return mask.new_empty(mask.shape, dtype=torch.float32)


def _operation(name: str, implementation: Any) -> Operation:
    return Operation(
        f"{name}(Tensor mask, Tensor? spacing) -> Tensor",
        cpu=implementation,
        gpu=f"distance.{name}",
        shapes=_shapes,
    )


_signed_distance = _operation("signed_distance", cpu.signed_distance)
_distance = _operation("distance", cpu.distance)
