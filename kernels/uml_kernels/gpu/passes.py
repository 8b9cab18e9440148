"""Kernels of the statistics of stochastic passes and their launchers; each reads its input once."""

# pyright: reportGeneralTypeIssues=false
# Triton's type information covers neither static_range nor the results of a kernel's functions

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from uml_kernels.layout import addressable
from uml_kernels.special import logarithm2
from uml_kernels.table import tiles

from .launch import launch
from .pixel_kernels import load_values, softmax

TINY = tl.constexpr(2.0**-126)
"""Smallest normal float32: the logarithm takes smaller values for 0."""


@triton.jit
def add_kernel(
    total,
    logits,
    P,
    programs,
    total_sample,
    total_class,
    total_pixel,
    stride_sample,
    stride_class,
    stride_pixel,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add the softmax of the logits of a block of pixels of one sample to the total."""
    program = tl.program_id(0)
    sample = (program // programs).to(tl.int64)
    start = (program % programs).to(tl.int64) * BLOCK
    offset = tl.arange(0, BLOCK)
    mask = offset < P - start
    base = logits + sample * stride_sample + start * stride_pixel
    q, _, _ = softmax(load_values(base, offset * stride_pixel, stride_class, mask, C), C)
    to = total + sample * total_sample + start * total_pixel
    for c in tl.static_range(C):
        pointer = to + tl.cast(c, tl.int64) * total_class + offset * total_pixel
        tl.store(pointer, tl.load(pointer, mask=mask, other=0.0) + q[c], mask=mask)


@triton.jit
def entropy_kernel(
    total,
    limit,
    entropy,
    below,
    P,
    programs,
    stride_sample,
    stride_class,
    stride_pixel,
    share,  # 1 / number of passes
    scale,  # 1 / log2 C
    C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute the normalised entropy of a block of pixels of one sample, and where it is below the limit."""
    program = tl.program_id(0)
    sample = (program // programs).to(tl.int64)
    start = (program % programs).to(tl.int64) * BLOCK
    offset = tl.arange(0, BLOCK)
    mask = offset < P - start
    base = total + sample * stride_sample + start * stride_pixel
    values = load_values(base, offset * stride_pixel, stride_class, mask, C)
    uncertainty = tl.zeros([BLOCK], tl.float32)
    for c in tl.static_range(C):
        probability = values[c] * share
        # Base 2, in which the entropy of two equal probabilities is exact
        uncertainty -= probability * logarithm2(tl.where(tl.abs(probability) < TINY, 1.0, probability))
    uncertainty *= scale
    # Selections, because minimum and maximum may drop NaN
    uncertainty = tl.where(uncertainty > 1.0, 1.0, tl.where(uncertainty < 0.0, 0.0, uncertainty))
    at = sample * P + start + offset
    tl.store(entropy + at, uncertainty, mask=mask)
    tl.store(below + at, uncertainty < tl.load(limit), mask=mask)


def add_probability(total: Tensor, logits: Tensor) -> None:
    """Add the softmax of the logits to the total in place; see `uml_kernels.passes`."""
    logits = addressable(logits)
    batch, classes, pixels = logits.shape
    chosen = tiles("add_probability", logits)
    programs = -(-pixels // chosen.block)
    launch(
        add_kernel, batch * programs, total, logits, pixels, programs, *total.stride(), *logits.stride(), C=classes,
        BLOCK=chosen.block, warps=chosen.warps,
    )  # fmt: skip


def passes_entropy(total: Tensor, limit: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return the normalised entropy and where it is below the limit; see `uml_kernels.passes`."""
    total = addressable(total)
    batch, classes, pixels = total.shape
    entropy = torch.empty((batch, pixels), dtype=torch.float32, device=total.device)
    below = torch.empty_like(entropy, dtype=torch.bool)
    chosen = tiles("passes_entropy", total)
    programs = -(-pixels // chosen.block)
    launch(
        entropy_kernel, batch * programs, total, limit, entropy, below, pixels, programs, *total.stride(), share,
        1 / math.log2(classes), C=classes, BLOCK=chosen.block, warps=chosen.warps,
    )  # fmt: skip
    return entropy, below
