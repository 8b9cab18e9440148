"""Kernels of gating and their launchers: one forward, one backward; each reads every operand once.

Tiles span channels and pixels, in proportions that follow the memory layout. A backward program processes all channels
of its pixels, so that the gate's gradient is a sum in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from uml_kernels.layout import addressable
from uml_kernels.table import tiles

from .launch import launch


@triton.jit
def gated_kernel(
    feature,
    gate,
    addend,  # or None
    result,
    F,
    P,
    blocks,
    chunks,
    stride_sample,
    stride_channel,
    stride_pixel,
    addend_sample,
    addend_channel,
    addend_pixel,
    to_sample,
    to_channel,
    to_pixel,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute (feature + addend) * gate for ROWS channels of BLOCK pixels of one sample."""
    program = tl.program_id(0)
    sample = (program // (blocks * chunks)).to(tl.int64)
    start = (program // chunks % blocks).to(tl.int64) * BLOCK
    channel = (program % chunks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    pixel = tl.arange(0, BLOCK)[None, :]
    inside = pixel < P - start
    mask = (channel < F) & inside
    factor = tl.load(gate + sample * P + start + pixel, mask=inside, other=0.0).to(tl.float32)
    pointer = feature + sample * stride_sample + start * stride_pixel + channel * stride_channel + pixel * stride_pixel
    value = tl.load(pointer, mask=mask, other=0.0).to(tl.float32)
    if addend is not None:
        pointer = addend + sample * addend_sample + start * addend_pixel + channel * addend_channel
        value += tl.load(pointer + pixel * addend_pixel, mask=mask, other=0.0).to(tl.float32)
    pointer = result + sample * to_sample + start * to_pixel + channel * to_channel + pixel * to_pixel
    tl.store(pointer, (value * factor).to(result.dtype.element_ty), mask=mask)


@triton.jit
def gated_backward_kernel(
    upstream,
    feature,
    gate,
    addend,  # or None
    for_feature,
    for_gate,
    for_addend,  # or None; has the strides of for_feature
    F,
    P,
    blocks,
    of_sample,  # strides of upstream
    of_channel,
    of_pixel,
    stride_sample,
    stride_channel,
    stride_pixel,
    addend_sample,
    addend_channel,
    addend_pixel,
    to_sample,  # strides of for_feature
    to_channel,
    to_pixel,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute the gradients of all channels of BLOCK pixels of one sample."""
    program = tl.program_id(0)
    sample = (program // blocks).to(tl.int64)
    start = (program % blocks).to(tl.int64) * BLOCK
    row = tl.arange(0, ROWS)[:, None]
    pixel = tl.arange(0, BLOCK)[None, :]
    inside = pixel < P - start
    factor = tl.load(gate + sample * P + start + pixel, mask=inside, other=0.0).to(tl.float32)
    of_base = upstream + sample * of_sample + start * of_pixel + pixel * of_pixel
    base = feature + sample * stride_sample + start * stride_pixel + pixel * stride_pixel
    to_base = sample * to_sample + start * to_pixel + pixel * to_pixel
    added = tl.zeros([ROWS, BLOCK], tl.float32)
    for first in range(0, F, ROWS):
        channel = (first + row).to(tl.int64)
        mask = (channel < F) & inside
        given = tl.load(of_base + channel * of_channel, mask=mask, other=0.0).to(tl.float32)
        value = tl.load(base + channel * stride_channel, mask=mask, other=0.0).to(tl.float32)
        if addend is not None:
            pointer = addend + sample * addend_sample + start * addend_pixel + channel * addend_channel
            value += tl.load(pointer + pixel * addend_pixel, mask=mask, other=0.0).to(tl.float32)
        added += given * value
        given *= factor
        tl.store(for_feature + to_base + channel * to_channel, given.to(for_feature.dtype.element_ty), mask=mask)
        if for_addend is not None:
            tl.store(for_addend + to_base + channel * to_channel, given.to(for_addend.dtype.element_ty), mask=mask)
    pointer = for_gate + sample * P + start + tl.arange(0, BLOCK)
    tl.store(pointer, tl.sum(added, 0).to(for_gate.dtype.element_ty), mask=tl.arange(0, BLOCK) < P - start)


def gated(feature: Tensor, gate: Tensor, addend: Tensor | None) -> Tensor:
    """Return (feature + addend) * gate; see `uml_kernels.gating`. The gate must be contiguous."""
    result = torch.empty_like(feature)
    feature, addend = addressable(feature), None if addend is None else addressable(addend)
    batch, channels, pixels = feature.shape
    chosen = tiles("gated_forward", feature)
    blocks, chunks = -(-pixels // chosen.block), -(-channels // chosen.iterations)
    launch(
        gated_kernel, batch * blocks * chunks, feature, gate, addend, result, channels, pixels, blocks, chunks,
        *feature.stride(), *((0, 0, 0) if addend is None else addend.stride()), *result.stride(),
        ROWS=chosen.iterations, BLOCK=chosen.block, warps=chosen.warps,
    )  # fmt: skip
    return result


def gated_backward(
    upstream: Tensor, feature: Tensor, gate: Tensor, addend: Tensor | None, apart: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of feature, gate and addend; the last is empty unless `apart` (its dtype differs)."""
    for_feature, for_gate = torch.empty_like(feature), torch.empty_like(gate)
    for_addend = torch.empty_like(feature, dtype=addend.dtype) if apart and addend is not None else None
    upstream, feature = addressable(upstream), addressable(feature)
    addend = None if addend is None else addressable(addend)
    batch, channels, pixels = feature.shape
    chosen = tiles("gated_backward", feature)
    blocks = -(-pixels // chosen.block)
    launch(
        gated_backward_kernel, batch * blocks, upstream, feature, gate, addend, for_feature, for_gate, for_addend,
        channels, pixels, blocks, *upstream.stride(), *feature.stride(),
        *((0, 0, 0) if addend is None else addend.stride()), *for_feature.stride(), ROWS=chosen.iterations,
        BLOCK=chosen.block, warps=chosen.warps,
    )  # fmt: skip
    return for_feature, for_gate, feature.new_empty(0) if for_addend is None else for_addend
