"""The pixels along the borders between classes."""

import torch
from torch import Tensor
from torch.nn import functional


def border(classes: Tensor, valid: Tensor | None = None, distance: int = 1) -> Tensor:
    """Return which pixels (B, *S) have a pixel of another class at most so far away, along each axis.

    Args:
        classes: (B, *S), class numbers from 0 to 255, or bool.
        valid: (B, *S) bool, the pixels that count; the others are ignored, also as neighbours.
        distance: largest distance along each axis, in pixels: the window has 2 distance + 1 pixels a side.
    """
    valid = torch.ones_like(classes, dtype=torch.bool) if valid is None else valid
    values = classes.float()
    highest = _largest(torch.where(valid, values, -1.0), distance)
    lowest = -_largest(torch.where(valid, -values, -256.0), distance)
    return valid & (highest != lowest)


def _largest(values: Tensor, distance: int) -> Tensor:
    """Return the largest value in the window around each pixel, axis by axis: the cost grows with its side alone."""
    for axis in range(1, values.dim()):
        moved = values.movedim(axis, -1)
        lines = moved.reshape(1, -1, moved.shape[-1])
        values = functional.max_pool1d(lines, 2 * distance + 1, 1, distance).view(moved.shape).movedim(-1, axis)
    return values
