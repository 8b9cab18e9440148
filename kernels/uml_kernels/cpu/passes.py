"""CPU implementation of the statistics of stochastic passes."""

import math

from torch import Tensor

from uml_kernels.layout import at_least_float32

TINY = 2.0**-126
"""Smallest normal float32: the terms of smaller probabilities, which the GPU's logarithm takes for 0, are 0."""


def add_probability(total: Tensor, logits: Tensor) -> None:
    """Add the softmax of logits (B, C, P) to the total in place."""
    for sample, values in zip(total, logits, strict=True):  # one at a time, so that the softmax stays in the cache
        sample.add_(at_least_float32(values).softmax(0))


def passes_entropy(total: Tensor, limit: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return the normalised entropy of total * share (B, C, P), and where it is below the limit."""
    probability = at_least_float32(total) * share
    # Base 2, in which the entropy of two equal probabilities is exact
    terms = probability.log2().mul_(probability).masked_fill_(probability.abs() < TINY, 0)
    entropy = terms.sum(1).div_(-math.log2(total.shape[1])).clamp_(0, 1)
    return entropy, entropy < limit
