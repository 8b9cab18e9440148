"""Shapes, strides and dtypes: views of maps of any rank as (B, C, P), and the layout of results."""

from typing import Any

import torch
from torch import Tensor


def as_pixels(x: Tensor, dim: int = 1) -> Tensor:
    """View (*lead, C, *S) with the classes along `dim` as (B, C, P).

    Channels first and channels last are views; x is copied only if the pixels have no common stride.
    """
    dim %= x.dim()
    x = x.flatten(0, dim - 1) if dim > 0 else x.unsqueeze(0)
    return x.flatten(2) if x.dim() > 2 else x.unsqueeze(2)


def map_shape(like: Tensor, dim: int = 1) -> tuple[int, ...]:
    """Return the shape (*lead, *S) of a map for `like` of shape (*lead, C, *S)."""
    dim %= like.dim()
    return (*like.shape[:dim], *like.shape[dim + 1 :])


def dense(x: Tensor) -> Tensor:
    """Return x if `torch.empty_like(x)` has its strides, else a copy with those strides.

    One set of strides then addresses both x and its gradient, with the strides that torch.compile expects of results.
    """
    if x.is_contiguous() or torch.empty_like(x, device="meta").stride() == x.stride():
        return x
    return x.clone()


WIDEST = 1 << 19
"""Maximum pixel stride: kernels address the up to 2048 pixels of a block in 32 bits."""


def addressable(x: Tensor) -> Tensor:
    """Return x (B, C, P), or a copy if its pixel stride is too large to address a block in 32 bits."""
    return x if x.stride(2) <= WIDEST else x.clone()


def strided_as(like: Tensor, result: Tensor) -> Tensor:
    """Return the result with the strides of `torch.empty_like(like)`; both have the same shape."""
    strided = torch.empty_like(like, dtype=result.dtype)
    return result if result.stride() == strided.stride() else strided.copy_(result)


def memory_format(maps: Tensor) -> Any:
    """Return channels_last for maps (B, C, H, W) in that format, else contiguous_format."""
    last = maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def dense_maps(maps: Tensor) -> Tensor:
    """Return maps (B, C, H, W) if they are contiguous or contiguous channels last, else a contiguous copy."""
    return maps if maps.is_contiguous(memory_format=torch.channels_last) else maps.contiguous()


def empty_like_maps(maps: Tensor) -> Tensor:
    """Return an empty tensor for the gradient of maps: channels last if the maps are, else channels first."""
    return torch.empty_like(maps, memory_format=memory_format(maps))


def result_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of results computed from x: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def at_least_float32(x: Tensor) -> Tensor:
    """Return x in its `result_dtype`: float64 unchanged, every other dtype as float32."""
    return x if x.dtype == torch.float64 else x.float()
