"""Evidence of a pixel's logits and its derivative, in registers: the first step of every evidential kernel."""

import triton
import triton.language as tl

from uml_kernels.special import LARGEST, LOG2_E, exponential, log1p_unit, reciprocal


@triton.jit
def evidence_of(logit, KIND: tl.constexpr):
    """Return the evidence of a float32 logit, at most 1e9, and its derivative; NaN stays NaN (see `EvidenceKind`)."""
    if KIND == "softplus":
        falling = exponential(-tl.abs(logit))  # carries NaN, which minimum and maximum may drop
        evidence = tl.minimum(tl.maximum(logit, 0.0), LARGEST) + log1p_unit(falling)
        return evidence, tl.where(logit < 0, falling, 1.0) * reciprocal(1.0 + falling)
    if KIND == "exp":
        evidence = tl.exp2(tl.where(logit > 16.0, 16.0, logit) * LOG2_E)
        return evidence, tl.where(logit > 16.0, 0.0, evidence)
    slope = tl.zeros_like(logit) + 1.0
    evidence = tl.where(logit > LARGEST, LARGEST, logit)
    if KIND == "relu":
        return tl.where(logit < 0, 0.0, evidence), tl.where(logit > 0, slope, 0.0)
    return tl.where(logit < 0, float("nan"), evidence), slope  # given: negative values are not evidence


@triton.jit
def load_evidence(logits, offset, stride_class, mask, C: tl.constexpr, KIND: tl.constexpr):
    """Return evidence and slopes of C classes as two tuples; `logits` points to the first class.

    Masked pixels have logit 0.
    """
    evidence, slopes = (), ()
    for c in tl.static_range(C):
        logit = tl.load(logits + tl.cast(c, tl.int64) * stride_class + offset, mask=mask, other=0.0).to(tl.float32)
        value, slope = evidence_of(logit, KIND)
        evidence += (value,)
        slopes += (slope,)
    return evidence, slopes


@triton.jit
def total(values, C: tl.constexpr):
    """Return the sum of a tuple of C values."""
    result = values[0]
    for c in tl.static_range(1, C):
        result += values[c]
    return result
