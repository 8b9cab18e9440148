"""The three sums from which a Dice score is computed."""

from typing import NamedTuple

from torch import Tensor


class DiceSums(NamedTuple):
    """Sums of q g, q and g over the valid pixels, each (..., B, C), float32 or float64.

    q is the predicted probability of a class and g its share in the target. Sums of several samples, devices or ranks
    can be added; form the ratio last.

    Attributes:
        intersection: sum of q g.
        predicted: sum of q.
        target: sum of g.
    """

    intersection: Tensor
    predicted: Tensor
    target: Tensor
