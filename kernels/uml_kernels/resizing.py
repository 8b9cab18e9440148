"""Bilinear interpolation with aligned corners in float32, with a bitwise reproducible gradient."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from uml_kernels import plain
from uml_kernels.cpu import resizing as cpu
from uml_kernels.layout import at_least_float32, memory_format, result_dtype
from uml_kernels.operation import Operation

LARGEST = 16384
"""Maximum side in pixels: sums of three products of two indices must fit in 32 bits."""


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps like torch.nn.functional.interpolate(mode="bilinear", align_corners=True).

    Differentiable. The backward pass adds in a fixed order, whereas torch's own uses atomic additions on a GPU.

    Args:
        maps: (B, C, H, W), any floating-point dtype, any strides.
        size: (h, w), in any ratio to (H, W).

    Returns:
        (B, C, h, w) in float32 (float64 for float64 maps), regardless of autocast; channels last if the maps are. Maps
        that already have the size are only converted to that dtype.

    Raises:
        ValueError: the maps are not four-dimensional or not floating-point, or a side is outside 1 to 16384.
    """
    shape = tuple(maps.shape)
    if maps.dim() != 4 or not maps.is_floating_point():
        raise ValueError(f"maps have shape {shape} and dtype {maps.dtype}; they must be floating-point (B, C, H, W)")
    if plain.is_exporting() and len(size) == 2:
        # The size limits and the shortcut for equal sizes would restrict the sizes that the graph accepts
        return plain.resized(maps, *size)
    if len(size) != 2 or not all(1 <= side <= LARGEST for side in (*size, *shape[2:])):
        raise ValueError(
            f"cannot resize maps of shape {shape} to {tuple(size)}: a size is (height, width), each 1 to {LARGEST}"
        )
    height, width = size
    if (height, width) == shape[2:]:
        return at_least_float32(maps)
    return _resized(maps, height, width)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.size, ctx.dtype = inputs[0].shape[2:], inputs[0].dtype


def _gradient(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
    return _resized_backward(upstream, *ctx.size, ctx.dtype), None, None


def _shapes(maps: Tensor, height: int, width: int) -> Tensor:
    dtype = result_dtype(maps)
    size = (maps.shape[0], maps.shape[1], height, width)
    return torch.empty(size, dtype=dtype, device=maps.device, memory_format=memory_format(maps))


def _backward_shapes(upstream: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    size = (upstream.shape[0], upstream.shape[1], height, width)
    return torch.empty(size, dtype=dtype, device=upstream.device, memory_format=memory_format(upstream))


_resized_backward = Operation(
    "resized_backward(Tensor upstream, SymInt height, SymInt width, ScalarType dtype) -> Tensor",
    cpu=cpu.resized_backward,
    gpu="resizing.resized_backward",
    shapes=_backward_shapes,
)
_resized = Operation(
    "resized(Tensor maps, SymInt height, SymInt width) -> Tensor",
    cpu=cpu.resized,
    gpu="resizing.resized",
    shapes=_shapes,
).differentiable(_save, _gradient)
