"""Launchers of the evidential objective's kernels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from uml_kernels.layout import addressable, dense
from uml_kernels.table import Tiles, fewer_blocks, tiles

from .evidential_kernels import backward_kernel, forward_kernel
from .launch import launch


class _Call(NamedTuple):
    """Launch parameters that forward and backward share."""

    tiles: Tiles
    blocks: int  # programs of one sample
    programs: int
    integers: tuple[int, ...]
    constants: dict[str, Any]


def _call(kernel: str, maps: Sequence[Tensor | None], target: Tensor, kind: str, ignore_index: int) -> _Call:
    present = [each for each in maps if each is not None]
    batch, classes, pixels = present[0].shape
    chosen = fewer_blocks(tiles(kernel, present[0]), len(present) * batch, pixels)
    blocks = -(-pixels // (chosen.block * chosen.iterations))
    constants = {"C": classes, "KIND": kind, "SOFT": target.is_floating_point(), "BLOCK": chosen.block}
    integers = (batch, pixels, blocks, *present[0].stride(), ignore_index)
    return _Call(chosen, blocks, len(present) * batch * blocks, integers, constants)


def evidential_sums(
    first: Tensor,
    second: Tensor | None,
    third: Tensor | None,
    fourth: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    class_weight: Tensor | None,
    kind: str,
    dice: str,
    ignore_index: int,
    with_vacuity: bool,
) -> tuple[Tensor, Tensor]:
    """Return the sums and the vacuities; see `uml_kernels.evidential`."""
    maps = [None if each is None else addressable(each) for each in (first, second, third, fourth)]
    call = _call("evidential_forward", maps, target, kind, ignore_index)
    columns = 4 if dice == "none" else 4 + 3 * first.shape[1]
    present = sum(each is not None for each in maps)
    partial = first.new_empty((present, len(first), call.blocks, columns), dtype=torch.float32)
    vacuity = _empty_map(first, with_vacuity)
    launch(
        forward_kernel, call.programs, *maps, target, weight, class_weight, None, partial, None,
        vacuity if with_vacuity else None, *call.integers, **call.constants, DICE=dice,
        ITERATIONS=call.tiles.iterations, warps=call.tiles.warps,
    )  # fmt: skip
    return partial.sum(2), vacuity


def evidential_map(
    logits: Tensor,
    target: Tensor,
    kl_weight: Tensor,
    weight: Tensor | None,
    class_weight: Tensor | None,
    kind: str,
    ignore_index: int,
    with_vacuity: bool,
) -> tuple[Tensor, Tensor]:
    """Return the loss of each pixel and the vacuities; see `uml_kernels.evidential`."""
    logits = addressable(logits)
    call = _call("evidential_forward", [logits], target, kind, ignore_index)
    loss, vacuity = _empty_map(logits, True), _empty_map(logits, with_vacuity)
    launch(
        forward_kernel, call.programs, logits, None, None, None, target, weight, class_weight, kl_weight, None, loss,
        vacuity if with_vacuity else None, *call.integers, **call.constants, DICE="none",
        ITERATIONS=call.tiles.iterations, warps=call.tiles.warps,
    )  # fmt: skip
    return loss, vacuity


def _empty_map(logits: Tensor, wanted: bool) -> Tensor:
    """Allocate a float32 map (B, P), or an empty tensor."""
    return logits.new_empty((logits.shape[0], logits.shape[2]) if wanted else (0,), dtype=torch.float32)


def evidential_sums_backward(
    upstream: Tensor,
    first: Tensor,
    second: Tensor | None,
    third: Tensor | None,
    fourth: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    class_weight: Tensor | None,
    kind: str,
    dice: str,
    ignore_index: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of one to four maps for an upstream gradient of their sums; empty for absent maps."""
    return _backward(
        (first, second, third, fourth), target, weight, class_weight, None, upstream.contiguous(), kind=kind,
        dice=dice, ignore_index=ignore_index, per_pixel=False,
    )  # fmt: skip


def evidential_map_backward(
    upstream: Tensor,
    logits: Tensor,
    target: Tensor,
    kl_weight: Tensor,
    weight: Tensor | None,
    class_weight: Tensor | None,
    kind: str,
    ignore_index: int,
) -> Tensor:
    """Return the gradient of `evidential_map` for an upstream gradient (B, P)."""
    return _backward(
        (logits, None, None, None), target, weight, class_weight, kl_weight, upstream.contiguous(), kind=kind,
        dice="none", ignore_index=ignore_index, per_pixel=True,
    )[0]  # fmt: skip


def _backward(
    maps: Sequence[Tensor | None],
    target: Tensor,
    *others: Tensor | None,
    kind: str,
    dice: str,
    ignore_index: int,
    per_pixel: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    maps = [None if each is None else dense(each) for each in maps]
    call = _call("evidential_backward", maps, target, kind, ignore_index)
    gradients = [None if each is None else torch.empty_like(each) for each in maps]
    launch(
        backward_kernel, call.programs, *maps, target, *others, *gradients, *call.integers, **call.constants,
        DICE=dice, PER_PIXEL=per_pixel, warps=call.tiles.warps,
    )  # fmt: skip
    first = gradients[0]
    assert first is not None
    one, two, three, four = (first.new_empty(0) if each is None else each for each in gradients)
    return one, two, three, four
