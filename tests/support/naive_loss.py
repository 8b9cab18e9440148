"""UML's losses exactly as in section 2 of the specification: digamma, lgamma, one-hot masks and autograd."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from uml_dist.recipes.uml.network import UmlOutput

SMOOTH = 1e-5
WEIGHTS = {"classification": 0.5, "segmentation": 0.4, "mutual": 0.1}
Digamma = Callable[[Tensor], Tensor]


def evidence_of(logits: Tensor) -> Tensor:
    return functional.softplus(logits, threshold=40)  # torch's own threshold of 20 is 2e-9 off


def naive_loss(
    output: UmlOutput, mask: Tensor, label: Tensor, kl_weight: float, digamma: Digamma = torch.digamma
) -> Tensor:
    """Return the total loss of section 2.8 for complete masks (B, H, W) and labels (B,)."""
    classification = _evidential(evidence_of(_precise(output.class_logits)), label, kl_weight, digamma)
    levels = [
        functional.interpolate(logits, mask.shape[1:], mode="bilinear", align_corners=True)
        for logits in output.segmentation
    ]
    segmentation = torch.stack([_dice(logits, mask) for logits in levels]).mean()
    evidence = evidence_of(_precise(output.mutual_logits))
    mutual = _dice(evidence, mask) + _evidential(evidence, mask, kl_weight, digamma)
    terms = {"classification": classification, "segmentation": segmentation, "mutual": mutual}
    return sum((WEIGHTS[name] * term for name, term in terms.items()), torch.zeros(()))


def _one_hot(target: Tensor, like: Tensor) -> Tensor:
    return functional.one_hot(target.long(), like.shape[1]).movedim(-1, 1).to(like.dtype)


def _evidential(evidence: Tensor, target: Tensor, kl_weight: float, digamma: Digamma) -> Tensor:
    """2.1 and 2.2: the expected cross-entropy, and the KL divergence of the evidence for wrong classes."""
    evidence = _precise(evidence)
    classes, own, alpha = evidence.shape[1], _one_hot(target, evidence), evidence + 1
    error = (own * (digamma(alpha.sum(1, keepdim=True)) - digamma(alpha))).sum(1)
    alpha = own + (1 - own) * alpha
    strength = alpha.sum(1, keepdim=True)
    kl = torch.lgamma(strength).squeeze(1) - math.lgamma(classes) - torch.lgamma(alpha).sum(1)
    kl = kl + ((alpha - 1) * (digamma(alpha) - digamma(strength))).sum(1)
    return (error + kl_weight * kl).mean()


def _dice(scores: Tensor, mask: Tensor) -> Tensor:
    """2.5: negative logarithm of the overlap with the softmax over the batch, averaged over the classes."""
    probability = _precise(scores).softmax(1)
    own, places = _one_hot(mask, probability), (0, 2, 3)
    overlap = 2 * (probability * own).sum(places) + SMOOTH
    return -torch.log(overlap / (probability.sum(places) + own.sum(places) + SMOOTH)).mean()


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
