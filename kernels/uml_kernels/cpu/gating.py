"""CPU implementation of gating with closed-form gradients."""

import torch
from torch import Tensor

from uml_kernels.layout import at_least_float32


def _sum(feature: Tensor, addend: Tensor | None) -> Tensor:
    feature = at_least_float32(feature)
    return feature if addend is None else feature + at_least_float32(addend)


def gated(feature: Tensor, gate: Tensor, addend: Tensor | None) -> Tensor:
    """Compute (feature + addend) * gate in the dtype and strides of the feature (B, F, P); the gate is (B, P)."""
    return torch.mul(_sum(feature, addend), at_least_float32(gate).unsqueeze(1), out=torch.empty_like(feature))


def gated_backward(
    upstream: Tensor, feature: Tensor, gate: Tensor, addend: Tensor | None, apart: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of feature, gate and addend; the last is empty unless `apart` (its dtype differs)."""
    upstream = at_least_float32(upstream)
    factor = at_least_float32(gate).unsqueeze(1)
    for_feature = torch.mul(upstream, factor, out=torch.empty_like(feature))
    for_gate = (upstream * _sum(feature, addend)).sum(1).to(gate.dtype)
    if apart and addend is not None:
        for_addend = torch.mul(upstream, factor, out=torch.empty_like(feature, dtype=addend.dtype))
    else:
        for_addend = feature.new_empty(0)
    return for_feature, for_gate, for_addend
