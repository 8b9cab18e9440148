"""Evidence and the opinion it forms: belief, vacuity, probability (subjective logic)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

EvidenceKind = Literal["softplus", "relu", "exp"]
LARGEST_EXPONENT = 16.0  # exp(16) = 8.9e6; beyond it the vacuity of an opinion is below float32's resolution of 1


def at_least_float32(x: Tensor) -> Tensor:
    """A float64 tensor as it is, every other as float32."""
    return x if x.dtype == torch.float64 else x.float()


def evidence(logits: Tensor, kind: EvidenceKind = "softplus") -> Tensor:
    """Non-negative evidence of logits, in float32 (float64 of float64), whatever the autocast state.

    Args:
        logits: any shape, any floating dtype.
        kind: "softplus" (UML), "relu" (Sensoy et al. 2018), or "exp" of logits that are clamped to at most 16.

    Raises:
        ValueError: an unknown kind.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = at_least_float32(logits)
        if kind == "softplus":
            return functional.softplus(logits)
        if kind == "relu":
            return functional.relu(logits)
        if kind == "exp":
            return logits.clamp(max=LARGEST_EXPONENT).exp()
    raise ValueError(f"evidence kind is {kind!r}; choose softplus, relu or exp")


@dataclass(frozen=True)
class Opinion:
    """The opinion of a Dirichlet distribution with alpha = evidence + 1; each part is computed when first asked for.

    Sum of belief + vacuity = 1; probability = belief + vacuity / C.

    Attributes:
        evidence: (B, C, *S) with the classes along `dim`, float32 or float64.
        dim: the class dimension.
    """

    evidence: Tensor
    dim: int = 1

    @cached_property
    def alpha(self) -> Tensor:
        """(B, C, *S), at least 1."""
        return self.evidence + 1

    @cached_property
    def strength(self) -> Tensor:
        """(B, *S), the sum of alpha, at least C."""
        return self.evidence.sum(self.dim) + self.evidence.shape[self.dim]

    @cached_property
    def vacuity(self) -> Tensor:
        """(B, *S) in (0, 1]: C / strength, the belief that no class has."""
        return self.evidence.shape[self.dim] / self.strength

    @cached_property
    def belief(self) -> Tensor:
        """(B, C, *S) in [0, 1): evidence / strength."""
        return self.evidence / self.strength.unsqueeze(self.dim)

    @cached_property
    def probability(self) -> Tensor:
        """(B, C, *S), the expected probability alpha / strength; sums to 1."""
        return self.alpha / self.strength.unsqueeze(self.dim)

    @cached_property
    def gate(self) -> Tensor:
        """(B, *S) in [1/e, 1): exp(-vacuity)."""
        return torch.exp(-self.vacuity)


def opinion(evidence: Tensor, dim: int = 1) -> Opinion:
    """The opinion that evidence (B, C, *S) forms, in float32 (float64 of float64).

    Args:
        evidence: non-negative; see `evidence`.
        dim: the class dimension.
    """
    return Opinion(at_least_float32(evidence), dim)
