"""Evaluates the shared code of all operations: expected cross-entropy and KL of single pixels, with derivatives."""

import os

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from uml_kernels.cpu.dirichlet import hard_slopes, hard_terms, soft_slopes, soft_terms

Pair = tuple[Tensor, Tensor]


def pixel_terms(evidence: Tensor, target: Tensor) -> tuple[Pair, Pair]:
    """Return two values (N,) and two derivatives (N, C) for evidence (N, C) and class numbers (N,) or shares (N, C)."""
    if evidence.is_cuda or os.environ.get("TRITON_INTERPRET") == "1":
        from pixel_kernel import run

        return run(evidence, target)
    planes, soft = list(evidence.unbind(1)), target.is_floating_point()
    given = [share.to(evidence.dtype) for share in (target if soft else one_hot(target, len(planes))).unbind(1)]
    terms, slopes = (soft_terms, soft_slopes) if soft else (hard_terms, hard_slopes)
    values, derivatives = terms(planes, given), slopes(planes, given)
    return (values.cross_entropy, values.kl), (
        torch.stack(list(derivatives.cross_entropy), 1),
        torch.stack([each.expand_as(values.kl) for each in derivatives.kl], 1),
    )
