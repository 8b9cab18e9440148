"""Kernels of the distance maps and their launchers: one launch along each axis, one search of maxima, one for the map.

A voxel's state is one signed number: the squared distance to the nearest voxel of the other class found so far,
negative in the foreground. One pass along an axis therefore serves inside and outside.
"""

# pyright: reportGeneralTypeIssues=false
# Triton's type information covers neither static_range nor the results of a kernel's functions

import torch
import triton
import triton.language as tl
from torch import Tensor

from uml_kernels.table import tiles

from .launch import launch


@triton.jit
def axis_kernel(
    source,  # mask if FIRST, else squares
    result,
    spacing,  # or None: (B, 3)
    P,
    programs,
    length,
    stride,
    axis,
    FIRST: tl.constexpr,
    SIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Lower the squares of BLOCK voxels of one sample by those along an axis.

    The offset grows until it alone costs as much as the largest square of the block. Without SIGNED, foreground voxels
    have the square 0.
    """
    program = tl.program_id(0)
    sample = (program // programs).to(tl.int64)
    voxel = (program % programs) * BLOCK + tl.arange(0, BLOCK)
    inside = voxel < P
    place = voxel // stride % length
    source += sample * P
    own = tl.load(source + voxel, mask=inside, other=0)
    if FIRST:
        foreground = own != 0
        best = tl.full([BLOCK], float("inf"), tl.float32)
        if not SIGNED:
            best = tl.where(foreground, 0.0, best)
    else:
        foreground = own < 0
        best = tl.abs(own)
    best = tl.where(inside, best, 0.0)
    if spacing is not None:
        size = tl.load(spacing + sample * 3 + axis)
        weight = tl.where(size > 0, size * size, float("nan"))
    else:
        weight = tl.full([], 1.0, tl.float32)
    farthest = tl.max(tl.maximum(place, length - 1 - place))
    offset = tl.full([], 1, tl.int32)
    cost = weight
    while (offset <= farthest) & (cost < tl.max(best)):
        for side in tl.static_range(2):
            by = offset * (2 * side - 1)
            reached = inside & (place + by >= 0) & (place + by < length) & (cost < best)
            seen = tl.load(source + voxel + by * stride, mask=reached, other=0)
            if FIRST:
                square = tl.where((seen != 0) != foreground, cost, float("inf"))
            else:
                square = cost + tl.maximum(tl.where(foreground, -seen, seen), 0.0)
            best = tl.where(reached, tl.minimum(best, square), best)
        offset += 1
        cost = weight * (offset * offset).to(tl.float32)
    best += weight * 0.0  # NaN if the size is not positive and finite
    if SIGNED:
        best = tl.where(foreground, -best, best)
    tl.store(result + sample * P + voxel, best, mask=inside)


@triton.jit
def _touches(mask, voxel, inside, length, stride):
    """Return which voxels have a background voxel as a neighbour along an axis."""
    place = voxel // stride % length
    before = tl.load(mask + voxel - stride, mask=inside & (place > 0), other=1)
    after = tl.load(mask + voxel + stride, mask=inside & (place < length - 1), other=1)
    return (before == 0) | (after == 0)


@triton.jit
def map_kernel(mask, squares, lowest, highest, result, P, programs, D, H, W, BLOCK: tl.constexpr):
    """Normalise the signed squares of BLOCK voxels of one sample; 0 at the inner boundary."""
    program = tl.program_id(0)
    sample = (program // programs).to(tl.int64)
    voxel = (program % programs) * BLOCK + tl.arange(0, BLOCK)
    inside = voxel < P
    mask += sample * P
    own = tl.load(mask + voxel, mask=inside, other=0)
    touching = _touches(mask, voxel, inside, D, H * W)
    touching |= _touches(mask, voxel, inside, H, W)
    touching |= _touches(mask, voxel, inside, W, 1)
    square = tl.load(squares + sample * P + voxel, mask=inside, other=1.0)
    peak = tl.where(square < 0, -tl.load(lowest + sample), tl.load(highest + sample))
    alone = tl.abs(square) == float("inf")  # a sample of one class
    size = tl.sqrt_rn(tl.div_rn(tl.where(alone, 1.0, tl.abs(square)), tl.where(alone, 1.0, peak)))
    value = tl.where(square < 0, -size, size)
    boundary = touching & (own != 0) & (square == square)
    tl.store(result + sample * P + voxel, tl.where(boundary, 0.0, value), mask=inside)


def _bytes(mask: Tensor) -> Tensor:
    return mask.view(torch.uint8) if mask.dtype == torch.bool else mask


def _squares(mask: Tensor, spacing: Tensor | None, signed: bool) -> Tensor:
    """Return the squared distances (B, D, H, W), with a sign if `signed`."""
    batch, depth, height, width = mask.shape
    voxels = depth * height * width
    chosen = tiles("distance_axis", mask.view(batch, 1, voxels))
    programs = -(-voxels // chosen.block)
    source = mask
    for axis, length, stride in ((2, width, 1), (1, height, width), (0, depth, height * width)):
        first = source is mask
        if length == 1 and not first:
            continue
        result = torch.empty(mask.shape, dtype=torch.float32, device=mask.device)
        launch(
            axis_kernel, batch * programs, source, result, spacing, voxels, programs, length, stride, axis,
            FIRST=first, SIGNED=signed, BLOCK=chosen.block, warps=chosen.warps,
        )  # fmt: skip
        source = result
    return source


def distance(mask: Tensor, spacing: Tensor | None) -> Tensor:
    """Return the distances; see `uml_kernels.distance`."""
    return _squares(_bytes(mask), spacing, signed=False).sqrt_()


def signed_distance(mask: Tensor, spacing: Tensor | None) -> Tensor:
    """Return the normalised signed distances; see `uml_kernels.distance`."""
    mask = _bytes(mask)
    squares = _squares(mask, spacing, signed=True)
    lowest, highest = squares.flatten(1).aminmax(dim=1)
    batch, *sides = mask.shape
    voxels = squares[:1].numel()
    chosen = tiles("distance_map", mask.view(batch, 1, voxels))
    programs = -(-voxels // chosen.block)
    result = torch.empty_like(squares)
    launch(
        map_kernel, batch * programs, mask, squares, lowest, highest, result, voxels, programs, *sides,
        BLOCK=chosen.block, warps=chosen.warps,
    )  # fmt: skip
    return result
