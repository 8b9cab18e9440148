"""The three sums of which every Dice overlap is a ratio."""

from typing import NamedTuple

import torch
from torch import Tensor


class DiceSums(NamedTuple):
    """Sums over the pixels that count, each (B, C), float32 or float64.

    Sums of several samples, devices or ranks add up; form the ratio last.
    """

    intersection: Tensor
    predicted: Tensor
    target: Tensor


class DiceTarget:
    """A target whose masks are formed once, for the sums of several maps of probabilities.

    Args:
        target: (B, *S) integer class numbers; g is 1 where they equal the class.
        classes: C.
        ignore_index: the target of pixels that do not count.
        dtype: of the sums, float32 or float64.
    """

    def __init__(
        self, target: Tensor, classes: int, ignore_index: int = 255, dtype: torch.dtype = torch.float32
    ) -> None:
        self._target = target
        flat = target.reshape(target.shape[0], -1)
        counted = (flat != ignore_index).unsqueeze(1)
        # Floating masks: a product is several times faster than `masked_fill`, forward and backward.
        self._own = (class_mask(flat, classes, 1) & counted).to(dtype)
        self._counted = counted.to(dtype)
        self._sum = self._own.sum(2)

    def sums(self, probability: Tensor) -> DiceSums:
        """Per sample and class: sums of q g, of q and of g over the pixels whose target is not `ignore_index`.

        Args:
            probability: q, (B, C, *S), any floating dtype, finite.

        Raises:
            ValueError: shapes that do not fit, or a target that is not of integers.
        """
        check_target(probability, self._target, 1)
        with torch.autocast(probability.device.type, enabled=False):
            probability = probability.to(self._own.dtype).reshape(*probability.shape[:2], -1)
            return DiceSums((probability * self._own).sum(2), (probability * self._counted).sum(2), self._sum)


def dice_sums(probability: Tensor, target: Tensor, ignore_index: int = 255) -> DiceSums:
    """The sums of one map of probabilities (B, C, *S), in float32 (float64 of float64): see `DiceTarget`."""
    check_target(probability, target, 1)
    dtype = torch.promote_types(probability.dtype, torch.float32)
    return DiceTarget(target, probability.shape[1], ignore_index, dtype).sums(probability)


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
