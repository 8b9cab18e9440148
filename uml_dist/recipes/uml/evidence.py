"""Maps the score of a pixel to a logit whose softplus is the evidence, as the kernels expect it."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from uml_kernels.layout import at_least_float32

Evidence = Literal["softplus", "exponential"]

KNEE = 1.0
"""Score above which evidence grows exponentially."""

LARGEST = 16.0
"""Score above which evidence is constant, at 3e6; the gradient vanishes long before."""


def exponential_logits(score: Tensor) -> Tensor:
    """Return logits of evidence that grows exponentially: the score up to 1, exp(score - 1) above; float32 or float64.

    For an obvious class, the loss is smallest at evidence in the hundreds, and its gradient falls with the square of
    the evidence. A score that is the logit itself has to grow to hundreds, so after a short run vacuity reflects the
    progress of training. Up to 1 the score is unchanged: with an exponential there too, the evidence of a rare class
    can vanish early in training, and its gradient with it (Pandey and Yu, "Learn to accumulate evidence from all
    training samples", ICML 2023).
    """
    score = at_least_float32(score)
    return torch.where(score > KNEE, torch.exp(score.clamp(KNEE, LARGEST) - KNEE), score)


def softplus_logits(score: Tensor) -> Tensor:
    """Return the score itself, as in the paper: evidence is softplus(score)."""
    return score


EVIDENCE_LOGITS: dict[Evidence, Callable[[Tensor], Tensor]] = {
    "softplus": softplus_logits,
    "exponential": exponential_logits,
}
