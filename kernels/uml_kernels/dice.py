"""The three sums of which every Dice overlap is a ratio."""

from typing import NamedTuple

import torch
from torch import Tensor

from uml_kernels.opinion import at_least_float32


class DiceSums(NamedTuple):
    """Sums over the pixels that count, each (B, C), float32 or float64.

    Sums of several samples, devices or ranks add up; form the ratio last.
    """

    intersection: Tensor
    predicted: Tensor
    target: Tensor


def dice_sums(probability: Tensor, target: Tensor, ignore_index: int = 255) -> DiceSums:
    """Per sample and class: sums of q g, of q and of g over the pixels whose target is not `ignore_index`.

    Args:
        probability: q, (B, C, *S), any floating dtype; summed in float32 (float64 of float64).
        target: (B, *S) integer class numbers; g is 1 where they equal the class.
        ignore_index: the target of pixels that do not count.

    Raises:
        ValueError: shapes that do not fit, or a target that is not of integers.
    """
    check_target(probability, target, 1)
    with torch.autocast(probability.device.type, enabled=False):
        probability = at_least_float32(probability).reshape(*probability.shape[:2], -1)
        target = target.reshape(target.shape[0], -1)
        counted = (target != ignore_index).unsqueeze(1)
        own = class_mask(target, probability.shape[1], 1) & counted
        return DiceSums(
            intersection=probability.masked_fill(~own, 0).sum(2),
            predicted=probability.masked_fill(~counted, 0).sum(2),
            target=own.sum(2, dtype=probability.dtype),
        )


def class_mask(target: Tensor, classes: int, dim: int) -> Tensor:
    """A target of class numbers (B, *S) as a one-hot bool mask with the classes along `dim`."""
    shape = [1] * (target.dim() + 1)
    shape[dim] = classes
    # Numbers of the target's own dtype: comparing uint8 with int64 would first copy the target eight times as large.
    return target.unsqueeze(dim) == torch.arange(classes, device=target.device, dtype=target.dtype).reshape(shape)


def check_target(x: Tensor, target: Tensor, dim: int) -> None:
    """Refuse a target whose shape is not that of x without the class dimension, or whose dtype is not an integer one.

    Raises:
        ValueError: one line that names both shapes.
    """
    expected = list(x.shape)
    del expected[dim]
    if list(target.shape) != expected:
        raise ValueError(f"target has shape {tuple(target.shape)}; {tuple(x.shape)} needs {tuple(expected)}")
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise ValueError(f"target has dtype {target.dtype}; class numbers must be integers")
