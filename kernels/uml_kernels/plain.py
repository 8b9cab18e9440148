"""A model's functions composed of torch's own operators, for exported graphs that run without this library.

torch.export, ONNX and torch.jit.trace capture these instead of the library's operators. They have the numerics of the
CPU implementations and accept dynamic sizes. They clamp by masks because minimum and maximum drop NaN in some runtimes.
"""

import torch
from torch import Tensor
from torch.nn import functional

from uml_kernels.cpu.opinion import LARGEST, LARGEST_EXPONENT
from uml_kernels.layout import at_least_float32


def is_exporting() -> bool:
    """Return whether a graph is being captured for another runtime; torch.compile does not count."""
    # torch.compile in torch 2.10 treats torch.compiler.is_exporting() as True, but reads the flag behind it correctly
    return torch.compiler._is_exporting_flag or torch.jit.is_tracing()


def evidence_of(logits: Tensor, kind: str) -> Tensor:
    """Compute the evidence of logits elementwise, at most 1e9."""
    logits = at_least_float32(logits)
    if kind == "softplus":
        evidence = functional.softplus(logits, threshold=40)
    elif kind == "exp":
        evidence = logits.masked_fill(logits > LARGEST_EXPONENT, LARGEST_EXPONENT).exp()
    else:
        evidence = logits.masked_fill(logits < 0, 0.0 if kind == "relu" else torch.nan)
    return evidence.masked_fill(evidence > LARGEST, LARGEST)


def opinion(logits: Tensor, kind: str, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute evidence (*lead, C, *S), vacuity and gate (*lead, *S) of logits (*lead, C, *S)."""
    evidence = evidence_of(logits, kind)
    classes = logits.shape[dim]
    vacuity = classes / (evidence.sum(dim) + classes)
    return evidence, vacuity, torch.exp(-vacuity)


def predictive_maps(logits: Tensor, kind: str, dim: int, classes: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Compute expected probability (*lead, C, *S) or label (*lead, *S), vacuity and entropy (*lead, *S)."""
    evidence = evidence_of(logits, kind)
    count = logits.shape[dim]
    strength = evidence.sum(dim, keepdim=True) + count
    probability = (evidence + 1) / strength
    label = evidence.argmax(dim, keepdim=True)
    numbers = torch.arange(count, device=logits.device).view(-1, *[1] * (logits.dim() - 1 - dim))
    own = numbers == label
    # As in the CPU implementation: log1p avoids the cancellation of -log for a probability near 1
    ratio = (evidence.masked_fill(own, 0).sum(dim, keepdim=True) + (count - 1)) / (evidence.amax(dim, keepdim=True) + 1)
    surprise = torch.where(own & (ratio < 1), ratio.log1p(), -probability.log())
    entropy = (probability * surprise).sum(dim)
    first = label.to(torch.uint8).masked_fill(strength.isnan(), 255).squeeze(dim) if classes else probability
    return first, (count / strength).squeeze(dim), entropy


def gated(feature: Tensor, gate: Tensor, addend: Tensor | None) -> Tensor:
    """Compute (feature + addend) * gate in the dtype of the feature (B, F, *S); the gate is (B, *S)."""
    total = at_least_float32(feature)
    if addend is not None:
        total = total + at_least_float32(addend)
    return (total * at_least_float32(gate).unsqueeze(1)).to(feature.dtype)


def resized(maps: Tensor, height: int, width: int) -> Tensor:
    """Interpolate maps (B, C, H, W) to (B, C, height, width)."""
    return functional.interpolate(at_least_float32(maps), (height, width), mode="bilinear", align_corners=True)
