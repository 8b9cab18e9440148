"""Shapes, strides and dtypes: maps of any rank as (B, C, P), and what results are made like."""

from typing import Any

import torch
from torch import Tensor


def as_pixels(x: Tensor, dim: int = 1) -> Tensor:
    """View (*lead, C, *S) with the classes along `dim` as (B, C, P); copied only where no stride spans the pixels.

    Channels first and channels last are both views.
    """
    dim %= x.dim()
    x = x.flatten(0, dim - 1) if dim > 0 else x.unsqueeze(0)
    return x.flatten(2) if x.dim() > 2 else x.unsqueeze(2)


def map_shape(like: Tensor, dim: int = 1) -> tuple[int, ...]:
    """(*lead, *S) of (*lead, C, *S)."""
    dim %= like.dim()
    return (*like.shape[:dim], *like.shape[dim + 1 :])


def dense(x: Tensor) -> Tensor:
    """X itself where a new tensor like it has its strides, so that one set of strides addresses both; else a copy.

    The copy has the strides of `torch.empty_like(x)`, as the results have that torch.compile expects.
    """
    if x.is_contiguous() or torch.empty_like(x, device="meta").stride() == x.stride():
        return x
    return x.clone()


WIDEST = 1 << 19
"""Of a pixel stride: kernels address the up to 2048 pixels of a block in 32 bits."""


def addressable(x: Tensor) -> Tensor:
    """X (B, C, P) itself, or a copy where its pixels lie so far apart that 32 bits cannot address a block of them."""
    return x if x.stride(2) <= WIDEST else x.clone()


def strided_as(like: Tensor, result: Tensor) -> Tensor:
    """The result with the strides of a new tensor like another of its shape."""
    strided = torch.empty_like(like, dtype=result.dtype)
    return result if result.stride() == strided.stride() else strided.copy_(result)


def memory_format(maps: Tensor) -> Any:
    """channels_last of maps (B, C, H, W) whose channels lie together, else contiguous_format."""
    last = maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def dense_maps(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) themselves where channels are first or last and nothing lies between; else a copy."""
    return maps if maps.is_contiguous(memory_format=torch.channels_last) else maps.contiguous()


def empty_like_maps(maps: Tensor) -> Tensor:
    """An empty tensor for the gradient of maps: channels last where they are, else first."""
    return torch.empty_like(maps, memory_format=memory_format(maps))


def result_dtype(x: Tensor) -> torch.dtype:
    """The dtype of what is computed of a tensor: at least float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor in its `result_dtype`: a float64 tensor as it is, every other as float32."""
    return x if x.dtype == torch.float64 else x.float()
