"""Cross-entropy and Dice sums for deep supervision: logits of several levels, each interpolated to one size.

No GPU memory holds the upsampled maps: a kernel interpolates each pixel's logits in registers, in forward and again in
backward. The CPU holds one sample of one level at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from uml_kernels.check import check_numbers
from uml_kernels.cpu import levels as cpu
from uml_kernels.dice import DiceSums
from uml_kernels.layout import empty_like_maps, result_dtype
from uml_kernels.operation import Operation

LARGEST_SIZE = 16384
"""Maximum side in pixels: coordinates are products of two sizes and must fit in 32 bits."""


@dataclass(frozen=True)
class LevelSums:
    """Per-sample sums over the valid pixels.

    Attributes:
        columns: all sums in the order of the properties, (levels, B, 2 + 3 C), float32 (float64 for float64 logits on
            a CPU).
    """

    columns: Tensor

    @property
    def count(self) -> Tensor:
        """Number of valid pixels (B,)."""
        return self.columns.select(-1, 0).select(-2, 0).detach()

    @property
    def cross_entropy(self) -> Tensor:
        """Sum of -ln q of the target's class (levels, B), with q = softmax of the logits."""
        return self.columns.select(-1, 1)

    @property
    def dice(self) -> DiceSums:
        """Dice sums of q, each (levels, B, C)."""
        intersection, predicted, target = (
            self.columns.narrow(-1, 2, self.columns.shape[-1] - 2).unflatten(-1, (3, -1)).unbind(-2)
        )
        return DiceSums(intersection, predicted, target.detach())


pytree.register_dataclass(LevelSums, serialized_type_name="uml_kernels.LevelSums")


def same_size(level: Tensor, target: Tensor) -> bool:
    """Return whether a level has the target's size, so that it is not interpolated."""
    return level.shape[2:] == target.shape[1:]


def _shapes(
    first: Tensor,
    second: Tensor | None,
    third: Tensor | None,
    fourth: Tensor | None,
    target: Tensor,
    height: int,
    width: int,
    ignore_index: int,
) -> Tensor:
    levels = sum(level is not None for level in (first, second, third, fourth))
    return first.new_empty((levels, first.shape[0], 2 + 3 * first.shape[1]), dtype=result_dtype(first))


def _gradient_shapes(upstream: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    levels: tuple[Tensor | None, ...] = arguments[:4]
    return tuple(upstream.new_empty(0, dtype=arguments[0].dtype) if x is None else empty_like_maps(x) for x in levels)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.others = inputs[5:]


def _gradient(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # under torch.utils.checkpoint they can be unpacked only once
    gradients = BACKWARD(upstream, *saved, *ctx.others)
    return *(None if x is None else y for x, y in zip(saved[:4], gradients, strict=True)), None, None, None, None


_ARGUMENTS = "Tensor first, Tensor? second, Tensor? third, Tensor? fourth, Tensor target, SymInt height, SymInt width"
BACKWARD = Operation(
    f"level_sums_backward(Tensor upstream, {_ARGUMENTS}, int ignore_index) -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=cpu.level_sums_backward,
    gpu="levels.level_sums_backward",
    shapes=_gradient_shapes,
)
FORWARD = Operation(
    f"level_sums({_ARGUMENTS}, int ignore_index) -> Tensor",
    cpu=cpu.level_sums,
    gpu="levels.level_sums",
    shapes=_shapes,
).differentiable(_save, _gradient)


def level_sums(
    levels: Sequence[Tensor], target: Tensor, *, size: tuple[int, int] | None = None, ignore_index: int = 255
) -> LevelSums:
    """Compute the cross-entropy and softmax Dice sums of 1 to 4 levels of logits against one target.

    A level of the target's size is used directly. Every other level is interpolated to `size`, bilinearly with aligned
    corners, and the top-left part of the result is compared with the target.

    Args:
        levels: logits (B, C, h, w) with any h and w, C 2 to 16, all of one floating-point dtype and on one device;
            channels first or last, other strides are copied.
        target: (B, H, W) class indices, uint8 or int64. An index that is neither a class nor `ignore_index` makes all
            sums of its sample NaN.
        size: (H', W'), at least the target's (H, W), which is the default.
        ignore_index: class index of the pixels to ignore: they do not change the sums and have no gradient, whatever
            their logits.

    Returns:
        Sums, differentiable with respect to all levels. A NaN logit makes the sums of the valid pixels interpolated
        from it NaN, and so the gradient at the points of these pixels.

    Raises:
        ValueError: the number, rank, shape, dtype or device of an input is wrong.
    """
    height, width = _check(levels, target, size)
    check_numbers(target, levels[0].shape[1], ignore_index)
    first, second, third, fourth = *levels, *[None] * (4 - len(levels))
    return LevelSums(FORWARD(first, second, third, fourth, target, height, width, ignore_index))


def _check(levels: Sequence[Tensor], target: Tensor, size: tuple[int, int] | None) -> tuple[int, int]:
    """Check the arguments; return the size to which levels are interpolated."""
    if not 1 <= len(levels) <= 4:
        raise ValueError(f"{len(levels)} levels; level_sums takes 1 to 4")
    first = levels[0]
    for number, level in enumerate(levels):
        name = f"level {number} of shape {tuple(level.shape)}"
        if level.dim() != 4 or 0 in level.shape[2:]:
            raise ValueError(f"{name} is not (B, C, h, w) with at least one pixel")
        if level.shape[:2] != first.shape[:2]:
            raise ValueError(f"{name} differs from level 0 in samples or classes: {tuple(first.shape[:2])}")
        if not level.is_floating_point() or level.dtype != first.dtype:
            raise ValueError(f"level {number} has dtype {level.dtype}; all levels need the same floating-point dtype")
        if level.device != target.device:
            raise ValueError(f"level {number} is on {level.device} and the target on {target.device}: move one of them")
        if max(level.shape[2:]) > LARGEST_SIZE:
            raise ValueError(f"{name} has a side over {LARGEST_SIZE}")
    if not 2 <= first.shape[1] <= 16:
        raise ValueError(f"{first.shape[1]} classes; level_sums takes 2 to 16")
    if target.dim() != 3 or target.shape[0] != first.shape[0] or 0 in target.shape[1:]:
        raise ValueError(f"target of shape {tuple(target.shape)} is not (B, H, W) with B = {first.shape[0]}")
    if target.dtype not in (torch.uint8, torch.int64):
        raise ValueError(f"target has dtype {target.dtype}; class indices must be uint8 or int64")
    height, width = target.shape[1:] if size is None else size
    if height < target.shape[1] or width < target.shape[2]:
        raise ValueError(f"size {(height, width)} is smaller than the target's {tuple(target.shape[1:])}")
    if max(height, width) > LARGEST_SIZE:
        raise ValueError(f"size {(height, width)} has a side over {LARGEST_SIZE}")
    return height, width
