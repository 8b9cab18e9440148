"""CPU implementation of evidence and opinions with closed-form gradients, in float64 for float64, else in float32."""

import torch
from torch import Tensor
from torch.nn import functional

from uml_kernels.layout import at_least_float32, strided_as

from .remainders import LOG1P, polynomial

LARGEST = 1e9
"""Maximum evidence, as in the kernels (`uml_kernels.special`)."""
LARGEST_EXPONENT = 16.0
"""Maximum exponent: beyond exp(16) = 8.9e6 the vacuity of an opinion is below float32's resolution at 1."""


def _in_one_loop(logits: Tensor) -> bool:
    """Return whether the compiler fuses the arithmetic, which makes a polynomial cheaper than the library's log1p."""
    return torch.compiler.is_compiling() and logits.dtype == torch.float32


def evidence_of(logits: Tensor, kind: str) -> Tensor:
    """Compute the evidence of logits elementwise, at most 1e9; NaN stays NaN."""
    logits = at_least_float32(logits)
    if kind == "softplus":
        if _in_one_loop(logits):
            falling = logits.abs().neg().exp()
            return logits.clamp(0, LARGEST) + falling * polynomial(LOG1P, falling)
        evidence = functional.softplus(logits, threshold=40)  # above 40, softplus(x) equals x even in float64
    elif kind == "exp":
        evidence = logits.clamp(max=LARGEST_EXPONENT).exp_()
    elif kind == "relu":
        evidence = logits.relu()
    else:
        evidence = torch.where(logits < 0, torch.nan, logits)
    return evidence.clamp(max=LARGEST)


def slope_of(logits: Tensor, kind: str) -> Tensor:
    """Compute the derivative of the evidence elementwise."""
    logits = at_least_float32(logits)
    if kind == "softplus":
        if _in_one_loop(logits):  # uses the same exponential as the evidence
            falling = logits.abs().neg().exp()
            return torch.where(logits < 0, falling, 1.0) / (1 + falling)
        return logits.sigmoid()
    if kind == "exp":
        return logits.exp().masked_fill_(logits > LARGEST_EXPONENT, 0)
    return (logits > 0).to(logits.dtype) if kind == "relu" else torch.ones_like(logits)


def opinion(logits: Tensor, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Compute evidence (B, C, P), vacuity and gate (B, P) of logits (B, C, P)."""
    evidence = evidence_of(logits, kind)
    classes = logits.shape[1]
    vacuity = classes / (evidence.sum(1) + classes)
    return strided_as(logits, evidence), vacuity, vacuity.neg().exp()


def opinion_backward(
    logits: Tensor, for_evidence: Tensor | None, for_vacuity: Tensor | None, for_gate: Tensor | None, kind: str
) -> Tensor:
    """Return the gradient of the logits in their dtype and strides; any upstream gradient may be None."""
    classes = logits.shape[1]
    vacuity = classes / (evidence_of(logits, kind).sum(1) + classes)
    upstream = torch.zeros_like(vacuity)
    if for_vacuity is not None:
        upstream = upstream + for_vacuity
    if for_gate is not None:
        upstream = upstream - for_gate * vacuity.neg().exp()
    each = (upstream * vacuity * vacuity / -classes).unsqueeze(1)
    if for_evidence is not None:
        each = each + for_evidence
    return torch.mul(each, slope_of(logits, kind), out=torch.empty_like(logits))


def predictive_maps(logits: Tensor, kind: str, classes: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Compute expected probability (B, C, P) or label (B, P), vacuity (B, P), and entropy (B, P) in nats."""
    evidence = evidence_of(logits, kind)
    count = logits.shape[1]
    strength = evidence.sum(1) + count
    probability = (evidence + 1) / strength.unsqueeze(1)
    largest, label = evidence.max(1)
    # For a probability p near 1, -ln p = log1p(other alphas / own alpha), which does not cancel
    others = evidence.scatter(1, label.unsqueeze(1), 0).sum(1) + (count - 1)
    ratio = (others / (largest + 1)).unsqueeze(1)
    own = torch.arange(count, device=logits.device).view(1, -1, 1) == label.unsqueeze(1)
    surprise = torch.where(own & (ratio < 1), ratio.log1p(), probability.log().neg())
    entropy = (probability * surprise).sum(1)
    if classes:
        first = label.to(torch.uint8).masked_fill(strength.isnan(), 255)
    else:
        first = strided_as(logits, probability)
    return first, count / strength, entropy
