"""How the evidence of a pixel grows with its score.

All else, the kernels too, takes logits whose softplus is the evidence; here a score becomes such a logit.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from uml_kernels.layout import at_least_float32

Evidence = Literal["softplus", "exponential"]

KNEE = 1.0
"""Score above which evidence grows exponentially."""

LARGEST = 16.0
"""Score above which evidence stays constant, at 3e6, where the gradient has long vanished."""


def exponential_logits(score: Tensor) -> Tensor:
    """Logits of evidence that grows exponentially: the score up to 1, and exp(score - 1) above; float32 or float64.

    Where the class is obvious, the loss is smallest at evidence in the hundreds, and its gradient falls with the
    square of the evidence. A score that is itself the logit has to grow as far, and after a short run vacuity reflects
    how far it has come. Below 1 nothing changes: with an exponential there too, the evidence of a rare class can vanish
    early in training, and its gradient with it (Pandey and Yu, "Learn to accumulate evidence from all training
    samples", ICML 2023).
    """
    score = at_least_float32(score)
    return torch.where(score > KNEE, torch.exp(score.clamp(KNEE, LARGEST) - KNEE), score)


def softplus_logits(score: Tensor) -> Tensor:
    """The score itself, as in the paper: evidence is softplus(score)."""
    return score


EVIDENCE_LOGITS: dict[Evidence, Callable[[Tensor], Tensor]] = {
    "softplus": softplus_logits,
    "exponential": exponential_logits,
}
