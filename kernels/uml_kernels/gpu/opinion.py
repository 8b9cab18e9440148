"""Kernels of opinions and their launchers: forward, backward and inference maps; each reads the logits once."""

# pyright: reportGeneralTypeIssues=false
# Triton's type information covers neither static_range nor the results of a kernel's functions

import torch
import triton
import triton.language as tl
from torch import Tensor

from uml_kernels.layout import addressable, result_dtype
from uml_kernels.special import exponential, log1p_unit, logarithm, reciprocal
from uml_kernels.table import tiles

from .evidence import load_evidence, total
from .launch import launch


@triton.jit
def opinion_kernel(
    logits,
    evidence,
    vacuity,
    gate,
    P,
    programs,
    stride_sample,
    stride_class,
    stride_pixel,
    to_sample,
    to_class,
    to_pixel,
    C: tl.constexpr,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute evidence, vacuity and gate of a block of pixels of one sample."""
    program = tl.program_id(0)
    sample = (program // programs).to(tl.int64)
    start = (program % programs).to(tl.int64) * BLOCK
    offset = tl.arange(0, BLOCK)
    mask = offset < P - start
    base = sample * stride_sample + start * stride_pixel
    values, _ = load_evidence(logits + base, offset * stride_pixel, stride_class, mask, C, KIND)
    result = evidence + sample * to_sample + start * to_pixel
    for c in tl.static_range(C):
        tl.store(result + tl.cast(c, tl.int64) * to_class + offset * to_pixel, values[c], mask=mask)
    share = C * reciprocal(total(values, C) + C)
    at = sample * P + start + offset
    tl.store(vacuity + at, share, mask=mask)
    tl.store(gate + at, exponential(-share), mask=mask)


@triton.jit
def opinion_backward_kernel(
    logits,
    for_evidence,  # or None
    for_vacuity,  # or None: (B, P)
    for_gate,  # or None: (B, P)
    gradient,
    P,
    programs,
    stride_sample,
    stride_class,
    stride_pixel,
    of_sample,  # strides of for_evidence
    of_class,
    of_pixel,
    to_sample,  # strides of the gradient
    to_class,
    to_pixel,
    C: tl.constexpr,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute the gradient of the logits of a block of pixels of one sample."""
    program = tl.program_id(0)
    sample = (program // programs).to(tl.int64)
    start = (program % programs).to(tl.int64) * BLOCK
    offset = tl.arange(0, BLOCK)
    mask = offset < P - start
    base = sample * stride_sample + start * stride_pixel
    values, slopes = load_evidence(logits + base, offset * stride_pixel, stride_class, mask, C, KIND)
    inverse = reciprocal(total(values, C) + C)
    at = sample * P + start + offset
    each = tl.zeros_like(values[0])
    if for_vacuity is not None:
        each += tl.load(for_vacuity + at, mask=mask, other=0.0).to(tl.float32)
    if for_gate is not None:
        each -= tl.load(for_gate + at, mask=mask, other=0.0).to(tl.float32) * exponential(-C * inverse)
    each *= -C * inverse * inverse  # derivative of the vacuity with respect to the evidence of any class
    for c in tl.static_range(C):
        value = each
        if for_evidence is not None:
            pointer = for_evidence + sample * of_sample + start * of_pixel + tl.cast(c, tl.int64) * of_class
            value += tl.load(pointer + offset * of_pixel, mask=mask, other=0.0).to(tl.float32)
        pointer = gradient + sample * to_sample + start * to_pixel + tl.cast(c, tl.int64) * to_class
        tl.store(pointer + offset * to_pixel, (value * slopes[c]).to(gradient.dtype.element_ty), mask=mask)


@triton.jit
def maps_kernel(
    logits,
    probability,  # or None
    label,  # or None: (B, P)
    vacuity,
    entropy,
    P,
    programs,
    stride_sample,
    stride_class,
    stride_pixel,
    to_sample,  # strides of the probability
    to_class,
    to_pixel,
    C: tl.constexpr,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute expected probability or label, vacuity and entropy of a block of pixels of one sample."""
    program = tl.program_id(0)
    sample = (program // programs).to(tl.int64)
    start = (program % programs).to(tl.int64) * BLOCK
    offset = tl.arange(0, BLOCK)
    mask = offset < P - start
    base = sample * stride_sample + start * stride_pixel
    values, _ = load_evidence(logits + base, offset * stride_pixel, stride_class, mask, C, KIND)
    strength = total(values, C) + C
    inverse = reciprocal(strength)
    largest, others = values[0], tl.zeros_like(values[0]) + (C - 1)
    number = tl.zeros([BLOCK], tl.int32)
    for c in tl.static_range(1, C):
        larger = values[c] > largest
        others += tl.where(larger, largest, values[c])
        number = tl.where(larger, c, number)
        largest = tl.where(larger, values[c], largest)
    # For a probability p near 1, -ln p = log1p(other alphas / own alpha), which does not cancel
    ratio = others * reciprocal(largest + 1.0)
    nearly = log1p_unit(ratio)
    uncertainty = tl.zeros_like(inverse)
    for c in tl.static_range(C):
        expected = (values[c] + 1.0) * inverse
        uncertainty += expected * tl.where((number == c) & (ratio < 1.0), nearly, -logarithm(expected))
        if probability is not None:
            pointer = probability + sample * to_sample + start * to_pixel + tl.cast(c, tl.int64) * to_class
            tl.store(pointer + offset * to_pixel, expected, mask=mask)
    at = sample * P + start + offset
    if label is not None:
        tl.store(label + at, tl.where(strength == strength, number, 255).to(tl.uint8), mask=mask)
    tl.store(vacuity + at, C * inverse, mask=mask)
    tl.store(entropy + at, uncertainty, mask=mask)


def _map(logits: Tensor) -> Tensor:
    return logits.new_empty((logits.shape[0], logits.shape[2]), dtype=result_dtype(logits))


def opinion(logits: Tensor, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return evidence, vacuity and gate; see `uml_kernels.opinion`."""
    evidence, vacuity, gate = torch.empty_like(logits, dtype=result_dtype(logits)), _map(logits), _map(logits)
    logits = addressable(logits)
    batch, classes, pixels = logits.shape
    chosen = tiles("opinion_forward", logits)
    programs = -(-pixels // chosen.block)
    launch(
        opinion_kernel, batch * programs, logits, evidence, vacuity, gate, pixels, programs, *logits.stride(),
        *evidence.stride(), C=classes, KIND=kind, BLOCK=chosen.block, warps=chosen.warps,
    )  # fmt: skip
    return evidence, vacuity, gate


def opinion_backward(
    logits: Tensor, for_evidence: Tensor | None, for_vacuity: Tensor | None, for_gate: Tensor | None, kind: str
) -> Tensor:
    """Return the gradient of the logits in their dtype and strides; any upstream gradient may be None."""
    gradient = torch.empty_like(logits)
    logits = addressable(logits)
    for_evidence = None if for_evidence is None else addressable(for_evidence)
    batch, classes, pixels = logits.shape
    chosen = tiles("opinion_backward", logits)
    programs = -(-pixels // chosen.block)
    launch(
        opinion_backward_kernel, batch * programs, logits, for_evidence,
        None if for_vacuity is None else for_vacuity.contiguous(), None if for_gate is None else for_gate.contiguous(),
        gradient, pixels, programs, *logits.stride(), *((0, 0, 0) if for_evidence is None else for_evidence.stride()),
        *gradient.stride(), C=classes, KIND=kind, BLOCK=chosen.block, warps=chosen.warps,
    )  # fmt: skip
    return gradient


def predictive_maps(logits: Tensor, kind: str, classes: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return probability or label, vacuity and entropy; see `uml_kernels.opinion.predictive_maps`."""
    vacuity, entropy = _map(logits), _map(logits)
    probability = None if classes else torch.empty_like(logits, dtype=result_dtype(logits))
    label = torch.empty_like(vacuity, dtype=torch.uint8) if classes else None
    logits = addressable(logits)
    batch, count, pixels = logits.shape
    chosen = tiles("predictive_maps", logits)
    programs = -(-pixels // chosen.block)
    launch(
        maps_kernel, batch * programs, logits, probability, label, vacuity, entropy, pixels, programs,
        *logits.stride(), *((0, 0, 0) if probability is None else probability.stride()), C=count, KIND=kind,
        BLOCK=chosen.block, warps=chosen.warps,
    )  # fmt: skip
    first = label if probability is None else probability
    assert first is not None
    return first, vacuity, entropy
