"""Cross-entropy and Dice sums of the logits of several levels, each brought to one size: for deep supervision.

The upsampled maps are formed on no device: a kernel interpolates each pixel's logits in registers, forward and again
backward; the CPU holds one sample and level at a time.
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
"""Pixels along a side; coordinates are products of two sizes in 32 bits."""


@dataclass(frozen=True)
class LevelSums:
    """Sums over the pixels that count.

    Attributes:
        columns: (levels, B, 2 + 3 C), float32 (float64 of float64 on a CPU): all sums in the order of the properties.
    """

    columns: Tensor

    @property
    def count(self) -> Tensor:
        """(B,), the pixels."""
        return self.columns.select(-1, 0).select(-2, 0).detach()

    @property
    def cross_entropy(self) -> Tensor:
        """(levels, B), of -ln q at the target's class, with q = softmax of the logits."""
        return self.columns.select(-1, 1)

    @property
    def dice(self) -> DiceSums:
        """Of q, each (levels, B, C)."""
        intersection, predicted, target = (
            self.columns.narrow(-1, 2, self.columns.shape[-1] - 2).unflatten(-1, (3, -1)).unbind(-2)
        )
        return DiceSums(intersection, predicted, target.detach())


pytree.register_dataclass(LevelSums, serialized_type_name="uml_kernels.LevelSums")


def same_size(level: Tensor, target: Tensor) -> bool:
    """Whether a level is taken as it is."""
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
    saved = ctx.saved_tensors  # unpacked once: a checkpoint refuses a second time
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
    """Sums of softmax overlap and cross-entropy of the logits of 1 to 4 levels against one target.

    A level of the target's size is taken as it is. Every other is interpolated to `size`, bilinearly with its corners
    at the corners, and the top left of that compared with the target.

    Args:
        levels: logits (B, C, h, w) of any h and w, all of one floating dtype and device, C 2 to 16, channels first or
            last; other strides are copied.
        target: (B, H, W) class numbers, uint8 or int64. Any that is no class and not `ignore_index` makes all sums of
            its sample NaN.
        size: (H', W'), at least the target's (H, W), which is the default.
        ignore_index: the target of pixels that do not count: they change no sum and have no gradient, whatever their
            logits are.

    Returns:
        Sums with gradients for all levels. A logit that is NaN makes NaN what the counted pixels it is interpolated to
        add to, and on their points the gradient.

    Raises:
        ValueError: the number, rank, shape, dtype or device of an input.
    """
    height, width = _check(levels, target, size)
    check_numbers(target, levels[0].shape[1], ignore_index)
    first, second, third, fourth = *levels, *[None] * (4 - len(levels))
    return LevelSums(FORWARD(first, second, third, fourth, target, height, width, ignore_index))


def _check(levels: Sequence[Tensor], target: Tensor, size: tuple[int, int] | None) -> tuple[int, int]:
    """The size that levels are brought to."""
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
            raise ValueError(f"level {number} has dtype {level.dtype}; all need one floating dtype")
        if level.device != target.device:
            raise ValueError(f"level {number} is on {level.device}, the target on {target.device}")
        if max(level.shape[2:]) > LARGEST_SIZE:
            raise ValueError(f"{name} has a side over {LARGEST_SIZE}")
    if not 2 <= first.shape[1] <= 16:
        raise ValueError(f"{first.shape[1]} classes; level_sums takes 2 to 16")
    if target.dim() != 3 or target.shape[0] != first.shape[0] or 0 in target.shape[1:]:
        raise ValueError(f"target of shape {tuple(target.shape)} is not (B, H, W) with B = {first.shape[0]}")
    if target.dtype not in (torch.uint8, torch.int64):
        raise ValueError(f"target has dtype {target.dtype}; class numbers must be uint8 or int64")
    height, width = target.shape[1:] if size is None else size
    if height < target.shape[1] or width < target.shape[2]:
        raise ValueError(f"size {(height, width)} is smaller than the target's {tuple(target.shape[1:])}")
    if max(height, width) > LARGEST_SIZE:
        raise ValueError(f"size {(height, width)} has a side over {LARGEST_SIZE}")
    return height, width
