"""The losses composed of torch operations: the float64 reference of tests and the baseline of benchmarks."""

import torch
from torch import Tensor
from torch.nn import functional


def eager_evidence(logits: Tensor, kind: str = "softplus") -> Tensor:
    if kind == "exp":
        return logits.clamp(max=16).exp()
    return {"softplus": functional.softplus, "relu": functional.relu, "given": lambda x: x}[kind](logits)


def logits_of(evidence: Tensor) -> Tensor:
    """Return the logits whose softplus is the evidence."""
    return evidence + torch.log(-torch.expm1(-evidence.double())).to(evidence.dtype)


def shares(target: Tensor, classes: int) -> Tensor:
    """(B, C, *S) one-hot of (B, *S) class numbers; zeros where the number is not a class."""
    numbers = torch.arange(classes, device=target.device).view(-1, *[1] * (target.dim() - 1))
    return (target.unsqueeze(1) == numbers).double()


def eager_terms(logits: Tensor, target: Tensor, kind: str = "softplus") -> tuple[Tensor, Tensor, Tensor]:
    """Return expected cross-entropy, KL to the uniform Dirichlet and vacuity (B, *S) of logits (B, C, *S)."""
    classes = logits.shape[1]
    alpha = eager_evidence(logits, kind) + 1
    strength = alpha.sum(1, keepdim=True)
    cross_entropy = (target * (strength.digamma() - alpha.digamma())).sum(1)
    wrong = (alpha - 1) * (1 - target) + 1
    total = wrong.sum(1, keepdim=True)
    kl = total.squeeze(1).lgamma() - torch.lgamma(logits.new_tensor(float(classes))) - wrong.lgamma().sum(1)
    kl = kl + ((wrong - 1) * (wrong.digamma() - total.digamma())).sum(1)
    return cross_entropy, kl, (classes / strength).squeeze(1)


def eager_dice(probability: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Sums (3, B, C) of q g, q and g over the pixels that count; all but `counted` (B, *S) are (B, C, *S)."""
    counted = counted.unsqueeze(1)
    terms = (probability * target * counted, probability * counted, target * counted)
    return torch.stack([term.reshape(*term.shape[:2], -1).sum(2) for term in terms])


def eager_mutual_loss(logits: Tensor, target: Tensor, kl_weight: float = 0.3) -> Tensor:
    """UML's mutual loss of one map as its authors compose it: -ln Dice + expected cross-entropy + KL, a scalar."""
    hot = functional.one_hot(target.long(), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    cross_entropy, kl, _ = eager_terms(logits, hot)
    counted = torch.ones_like(cross_entropy)
    intersection, predicted, own = eager_dice(eager_evidence(logits).softmax(1), hot, counted).sum(1)
    overlap = (2 * intersection + 1e-5) / (predicted + own + 1e-5)
    return -overlap.log().mean() + cross_entropy.mean() + kl_weight * kl.mean()
