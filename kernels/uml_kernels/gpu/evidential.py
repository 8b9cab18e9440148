"""Launches of the evidential objective's kernels."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from uml_kernels.layout import dense
from uml_kernels.table import Tiles, fewer_blocks, tiles

from .evidential_kernels import backward_kernel, forward_kernel, rescale_kernel
from .launch import launch

RESCALED = 1024
"""Values that a program rescales."""


class _Call(NamedTuple):
    """What the launches of forward and backward share."""

    tiles: Tiles
    programs: int
    integers: tuple[int, ...]
    constants: dict[str, Any]


def _call(kernel: str, logits: Tensor, target: Tensor, kind: str, ignore_index: int) -> _Call:
    batch, classes, pixels = logits.shape
    chosen = fewer_blocks(tiles(kernel, logits), batch, pixels)
    programs = -(-pixels // (chosen.block * chosen.iterations))
    constants = {"C": classes, "KIND": kind, "SOFT": target.is_floating_point(), "BLOCK": chosen.block}
    return _Call(chosen, batch * programs, (pixels, programs, *logits.stride(), ignore_index), constants)


def evidential_sums(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    class_weight: Tensor | None,
    kind: str,
    dice: str,
    ignore_index: int,
) -> Tensor:
    """See `uml_kernels.evidential`."""
    call = _call("evidential_forward", logits, target, kind, ignore_index)
    columns = 4 if dice == "none" else 4 + 3 * logits.shape[1]
    partial = logits.new_empty((len(logits), call.integers[1], columns), dtype=torch.float32)
    launch(
        forward_kernel, call.programs, logits, target, weight, class_weight, None, None, partial, None, None, None,
        *call.integers, **call.constants, DICE=dice, ITERATIONS=call.tiles.iterations, warps=call.tiles.warps,
    )  # fmt: skip
    return partial.sum(1)


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
    """See `uml_kernels.evidential`."""
    call = _call("evidential_forward", logits, target, kind, ignore_index)
    loss, vacuity = _empty_map(logits, True), _empty_map(logits, with_vacuity)
    launch(
        forward_kernel, call.programs, logits, target, weight, class_weight, kl_weight, None, None, loss,
        vacuity if with_vacuity else None, None, *call.integers, **call.constants, DICE="none",
        ITERATIONS=call.tiles.iterations, warps=call.tiles.warps,
    )  # fmt: skip
    return loss, vacuity


def evidential_total(
    logits: Tensor,
    target: Tensor,
    kl_weight: Tensor,
    scale: Tensor,
    weight: Tensor | None,
    class_weight: Tensor | None,
    kind: str,
    ignore_index: int,
    with_vacuity: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `uml_kernels.evidential`."""
    logits = dense(logits)
    call = _call("evidential_forward", logits, target, kind, ignore_index)
    partial = logits.new_empty((len(logits), call.integers[1], 4), dtype=torch.float32)
    gradient, vacuity = torch.empty_like(logits), _empty_map(logits, with_vacuity)
    launch(
        forward_kernel, call.programs, logits, target, weight, class_weight, kl_weight, scale, partial, None,
        vacuity if with_vacuity else None, gradient, *call.integers, **call.constants, DICE="none",
        ITERATIONS=call.tiles.iterations, warps=call.tiles.warps,
    )  # fmt: skip
    _, cross_entropy, kl, _ = partial.sum((0, 1)).unbind()
    return scale * (cross_entropy + kl_weight * kl), gradient, vacuity


def _empty_map(logits: Tensor, wanted: bool) -> Tensor:
    """(B, P) float32 to be filled, or nothing."""
    return logits.new_empty((logits.shape[0], logits.shape[2]) if wanted else (0,), dtype=torch.float32)


def evidential_sums_backward(
    upstream: Tensor,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    class_weight: Tensor | None,
    kind: str,
    dice: str,
    ignore_index: int,
) -> Tensor:
    """The gradient of `evidential_sums` for an upstream one of its shape."""
    arguments = (logits, target, weight, class_weight, None, upstream.contiguous())
    return _backward(*arguments, kind=kind, dice=dice, ignore_index=ignore_index, per_pixel=False)


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
    """The gradient of `evidential_map` for an upstream one (B, P)."""
    arguments = (logits, target, weight, class_weight, kl_weight, upstream.contiguous())
    return _backward(*arguments, kind=kind, dice="none", ignore_index=ignore_index, per_pixel=True)


def _backward(
    logits: Tensor, target: Tensor, *others: Tensor | None, kind: str, dice: str, ignore_index: int, per_pixel: bool
) -> Tensor:
    logits = dense(logits)
    call = _call("evidential_backward", logits, target, kind, ignore_index)
    gradient = torch.empty_like(logits)
    constants = {**call.constants, "DICE": dice, "PER_PIXEL": per_pixel}
    arguments = (logits, target, *others, gradient, *call.integers)
    launch(backward_kernel, call.programs, *arguments, **constants, warps=call.tiles.warps)
    return gradient


def rescale(values: Tensor, factor: Tensor) -> Tensor:
    """Multiply by a scalar in place; where that is 1, nothing is read or written."""
    programs = -(-values.numel() // RESCALED)
    launch(rescale_kernel, programs, values, factor.float(), values.numel(), BLOCK=RESCALED, warps=4)
    return values
