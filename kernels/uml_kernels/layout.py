"""Maps of any rank and memory format as (B, C, P): samples, classes, pixels."""

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
    """X itself where a new tensor like it has its strides, so that one set of strides addresses both; else a copy."""
    return x if torch.empty_like(x, device="meta").stride() == x.stride() else x.contiguous()
