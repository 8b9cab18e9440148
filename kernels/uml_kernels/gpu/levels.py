"""Launchers of the level sums: one launch forward and one backward for any number of levels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from uml_kernels.layout import dense_maps, empty_like_maps, result_dtype
from uml_kernels.levels import same_size
from uml_kernels.table import tiles

from .launch import launch
from .levels_kernels import backward_kernel, forward_kernel


def _pieces(length: int, piece: int) -> int:
    """Return how many pieces cover a length."""
    return -(-length // piece)


def rows_taken(level: Tensor, target: Tensor, height: int) -> int:
    """Return the number of pixel rows that a block processes at a time; 0 for a level of the target's size.

    It grows with the number of rows that a point of the level influences, which few lanes would process slowly.
    """
    if same_size(level, target):
        return 0
    rows = 2 * max(height - 1, 1) / max(level.shape[2] - 1, 1)
    return 1 if rows <= 6 else 4 if rows <= 12 else 8 if rows <= 64 else 16


def _sizes(levels: Sequence[Tensor | None]) -> list[int]:
    """Return height, width and strides of four levels; 0 for absent levels."""
    sizes: list[int] = []
    for level in levels:
        sizes += [0] * 5 if level is None else [*level.shape[2:], *level.flatten(2).stride()]
    return sizes


def _whole(height: int, width: int) -> tuple[int, int]:
    """Return the distances in pixels between the first and the last point of a dimension, at least 1."""
    return max(height - 1, 1), max(width - 1, 1)


def level_sums(
    first: Tensor,
    second: Tensor | None,
    third: Tensor | None,
    fourth: Tensor | None,
    target: Tensor,
    height: int,
    width: int,
    ignore_index: int,
) -> Tensor:
    """Return the sums of all levels; see `uml_kernels.levels`."""
    first = dense_maps(first)
    levels = [first, *(None if level is None else dense_maps(level) for level in (second, third, fourth))]
    present = sum(level is not None for level in levels)
    batch, classes = first.shape[:2]
    rows, columns = target.shape[1:]
    chosen = tiles("level_forward", first.flatten(2))
    programs = _pieces(rows, chosen.iterations) * _pieces(columns, chosen.block)
    spread = [level is not None and not same_size(level, target) for level in levels]
    partial = first.new_empty((present, batch, programs, 2 + 3 * classes), dtype=torch.float32)
    launch(
        forward_kernel, present * batch * programs, *levels, target.contiguous(), partial, batch, rows, columns,
        *_whole(height, width), *_sizes(levels), ignore_index, C=classes, FIRST=spread[0],
        SECOND=spread[1], THIRD=spread[2], FOURTH=spread[3], BLOCK=chosen.block, ITERATIONS=chosen.iterations,
        warps=chosen.warps,
    )  # fmt: skip
    return partial.sum(2, dtype=result_dtype(first))


def level_sums_backward(
    upstream: Tensor,
    first: Tensor,
    second: Tensor | None,
    third: Tensor | None,
    fourth: Tensor | None,
    target: Tensor,
    height: int,
    width: int,
    ignore_index: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of `level_sums`; empty tensors for absent levels."""
    first = dense_maps(first)
    levels = [first, *(None if level is None else dense_maps(level) for level in (second, third, fourth))]
    gradients = [None if level is None else empty_like_maps(level) for level in levels]
    classes = first.shape[1]
    chosen = tiles("level_backward", first.flatten(2))
    taken = [0 if level is None else rows_taken(level, target, height) for level in levels]
    ends = [0]
    for level, rows in zip(levels, taken, strict=True):
        points = chosen.block // rows - 1 if rows else chosen.block
        programs = 0 if level is None else len(first) * _pieces(level.shape[2] * level.shape[3], points)
        ends.append(ends[-1] + programs)
    launch(
        backward_kernel, ends[4], *levels, *gradients, target.contiguous(), upstream.float().contiguous(), len(first),
        *target.shape[1:], *_whole(height, width), *_sizes(levels), *ends[1:4], ignore_index,
        C=classes, FIRST=taken[0], SECOND=taken[1], THIRD=taken[2], FOURTH=taken[3], BLOCK=chosen.block,
        warps=chosen.warps, registers=chosen.registers,
    )  # fmt: skip
    one, two, three, four = (first.new_empty(0) if gradient is None else gradient for gradient in gradients)
    return one, two, three, four
