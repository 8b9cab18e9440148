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
"""Score above which it no longer does: evidence is 3e6 there, and its gradient has long vanished."""


def exponential_logits(score: Tensor) -> Tensor:
    """Logits of evidence that grows exponentially: the score up to 1, and exp(score - 1) above; float32 or float64.

    Where the class is plain, the loss asks for evidence of hundreds, and its gradient falls with the square of the
    evidence. A score that is the logit has to grow as far: in short runs vacuity told more of how far it had come than
    of the pixel. Below 1 nothing changes. An exponential there too let the evidence of a rare class vanish at the start
    of training, and with it the gradient (Pandey and Yu, "Learn to accumulate evidence from all training samples", ICML
    2023, call it a zero-evidence region).
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
