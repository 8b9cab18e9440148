"""The three sums of which every Dice overlap is a ratio."""

from typing import NamedTuple

from torch import Tensor


class DiceSums(NamedTuple):
    """Sums over the pixels that count of q g, q and g, each (..., B, C), float32 or float64.

    q is the probability of a class and g the target's share of it. Sums of several samples, devices or ranks add up;
    form the ratio last.
    """

    intersection: Tensor
    predicted: Tensor
    target: Tensor
