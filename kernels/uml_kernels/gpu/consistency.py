"""Kernels of the consistency sums and their launchers: one forward, one backward; each reads every operand once.

A forward program processes ITERATIONS blocks of pixels of one sample and writes one row of partial sums, which torch
adds in a fixed order. There are no atomics, so two runs are bitwise equal.
"""

# pyright: reportGeneralTypeIssues=false
# Triton's type information covers neither static_range nor the results of a kernel's functions

import torch
import triton
import triton.language as tl
from torch import Tensor

from uml_kernels.layout import addressable
from uml_kernels.special import exponential, reciprocal
from uml_kernels.table import Tiles, fewer_blocks, tiles

from .launch import launch
from .pixel_kernels import load_values, softmax


@triton.jit
def _soft_mask(distance, slope):
    """Return t = sigmoid(-slope distance) and t (1 - t), which is exactly 0 where t is saturated."""
    exponent = distance * slope
    falling = exponential(-tl.abs(exponent))
    inverse = reciprocal(1.0 + falling)
    return tl.where(exponent < 0, 1.0, falling) * inverse, falling * inverse * inverse


@triton.jit
def forward_kernel(
    logits,
    distance,
    teacher_probability,
    teacher_distance,
    gate,
    partial,  # (B, programs of a sample, 4)
    P,
    programs,
    slope,
    stride_sample,
    stride_class,
    stride_pixel,
    distance_sample,
    distance_map,
    distance_pixel,
    probability_sample,
    probability_class,
    probability_pixel,
    teacher_sample,
    teacher_map,
    teacher_pixel,
    C: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    ITERATIONS: tl.constexpr,
):
    """Compute the sums over some pixels of one sample."""
    program = tl.program_id(0)
    sample = (program // programs).to(tl.int64)
    begin = (program % programs).to(tl.int64) * (BLOCK * ITERATIONS)
    offset = tl.arange(0, BLOCK)
    zero = tl.zeros([BLOCK], tl.float32)
    segmentation, of_maps, cross, gated = zero, zero, zero, zero
    for i in range(tl.minimum(ITERATIONS, tl.cdiv(P - begin, BLOCK)).to(tl.int32)):
        start = begin + i * BLOCK
        mask = offset < P - start
        counted = tl.load(gate + sample * P + start + offset, mask=mask, other=0) != 0
        base = logits + sample * stride_sample + start * stride_pixel
        q, _total, _largest = softmax(load_values(base, offset * stride_pixel, stride_class, mask, C), C)
        base = distance + sample * distance_sample + start * distance_pixel
        z = load_values(base, offset * distance_pixel, distance_map, mask, D)
        base = teacher_probability + sample * probability_sample + start * probability_pixel
        teacher = load_values(base, offset * probability_pixel, probability_class, mask, C)
        base = teacher_distance + sample * teacher_sample + start * teacher_pixel
        teacher_z = load_values(base, offset * teacher_pixel, teacher_map, mask, D)
        squares, square_maps, square_cross = zero, zero, zero
        for c in tl.static_range(C):
            squares += (q[c] - teacher[c]) * (q[c] - teacher[c])
        for d in tl.static_range(D):
            square_maps += (z[d] - teacher_z[d]) * (z[d] - teacher_z[d])
            soft, _slope = _soft_mask(z[d], slope)
            square_cross += (soft - q[C - D + d]) * (soft - q[C - D + d])
        segmentation += tl.where(counted, squares, 0.0)
        of_maps += tl.where(counted, square_maps, 0.0)
        cross += tl.where(mask, square_cross, 0.0)
        gated += tl.where(counted, square_cross, 0.0)
    to = partial + program.to(tl.int64) * 4
    tl.store(to, tl.sum(segmentation, 0) * (1.0 / C))
    tl.store(to + 1, tl.sum(of_maps, 0) * (1.0 / D))
    tl.store(to + 2, tl.sum(cross, 0) * (1.0 / D))
    tl.store(to + 3, tl.sum(gated, 0) * (1.0 / D))


@triton.jit
def backward_kernel(
    upstream,  # (B, 4)
    logits,
    distance,
    teacher_probability,
    teacher_distance,
    gate,
    for_logits,
    for_distance,
    P,
    programs,
    slope,
    stride_sample,
    stride_class,
    stride_pixel,
    distance_sample,
    distance_map,
    distance_pixel,
    probability_sample,
    probability_class,
    probability_pixel,
    teacher_sample,
    teacher_map,
    teacher_pixel,
    to_sample,  # strides of for_logits
    to_class,
    to_pixel,
    to_distance_sample,  # strides of for_distance
    to_distance_map,
    to_distance_pixel,
    C: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute the gradients of logits and distance of a block of pixels of one sample."""
    program = tl.program_id(0)
    sample = (program // programs).to(tl.int64)
    start = (program % programs).to(tl.int64) * BLOCK
    offset = tl.arange(0, BLOCK)
    mask = offset < P - start
    upstream += sample * 4
    for_segmentation, for_maps = tl.load(upstream) * (2.0 / C), tl.load(upstream + 1) * (2.0 / D)
    for_cross, for_gated = tl.load(upstream + 2) * (2.0 / D), tl.load(upstream + 3) * (2.0 / D)
    counted = tl.load(gate + sample * P + start + offset, mask=mask, other=0) != 0
    for_square = for_cross + tl.where(counted, for_gated, 0.0)
    base = logits + sample * stride_sample + start * stride_pixel
    q, _total, _largest = softmax(load_values(base, offset * stride_pixel, stride_class, mask, C), C)
    base = teacher_probability + sample * probability_sample + start * probability_pixel
    teacher = load_values(base, offset * probability_pixel, probability_class, mask, C)
    base = distance + sample * distance_sample + start * distance_pixel
    z = load_values(base, offset * distance_pixel, distance_map, mask, D)
    base = teacher_distance + sample * teacher_sample + start * teacher_pixel
    teacher_z = load_values(base, offset * teacher_pixel, teacher_map, mask, D)
    to = for_distance + sample * to_distance_sample + start * to_distance_pixel + offset * to_distance_pixel
    asked = ()
    for c in tl.static_range(C):
        asked += (tl.where(counted, (q[c] - teacher[c]) * for_segmentation, 0.0),)
    for_q = asked[: C - D]
    for d in tl.static_range(D):
        soft, steepness = _soft_mask(z[d], slope)
        of_soft = (soft - q[C - D + d]) * for_square
        for_q += (asked[C - D + d] - of_soft,)
        value = tl.where(counted, (z[d] - teacher_z[d]) * for_maps, 0.0) - slope * (of_soft * steepness)
        tl.store(to + tl.cast(d, tl.int64) * to_distance_map, value.to(for_distance.dtype.element_ty), mask=mask)
    mean = tl.zeros([BLOCK], tl.float32)
    for c in tl.static_range(C):
        mean += q[c] * for_q[c]
    to = for_logits + sample * to_sample + start * to_pixel + offset * to_pixel
    for c in tl.static_range(C):
        value = q[c] * (for_q[c] - mean)
        tl.store(to + tl.cast(c, tl.int64) * to_class, value.to(for_logits.dtype.element_ty), mask=mask)


def _tiles(kernel: str, logits: Tensor) -> tuple[Tiles, int]:
    """Return the tiles and the number of programs of a sample."""
    batch, _, pixels = logits.shape
    chosen = fewer_blocks(tiles(kernel, logits), batch, pixels)
    return chosen, -(-pixels // (chosen.block * chosen.iterations))


def consistency_sums(
    logits: Tensor,
    distance: Tensor,
    teacher_probability: Tensor,
    teacher_distance: Tensor,
    mask: Tensor,
    slope: float,
) -> Tensor:
    """Return the sums (B, 4); see `uml_kernels.consistency`. The mask must be contiguous."""
    maps = [addressable(each) for each in (logits, distance, teacher_probability, teacher_distance)]
    batch, classes, pixels = logits.shape
    chosen, programs = _tiles("consistency_forward", maps[0])
    partial = torch.empty((batch, programs, 4), dtype=torch.float32, device=logits.device)
    strides = [stride for each in maps for stride in each.stride()]
    launch(
        forward_kernel, batch * programs, *maps, mask.view(torch.uint8), partial, pixels, programs, slope, *strides,
        C=classes, D=distance.shape[1], BLOCK=chosen.block, ITERATIONS=chosen.iterations, warps=chosen.warps,
    )  # fmt: skip
    return partial.sum(1)


def consistency_sums_backward(
    upstream: Tensor,
    logits: Tensor,
    distance: Tensor,
    teacher_probability: Tensor,
    teacher_distance: Tensor,
    mask: Tensor,
    slope: float,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of logits and distance in their dtypes and strides."""
    gradients = torch.empty_like(logits), torch.empty_like(distance)
    maps = [addressable(each) for each in (logits, distance, teacher_probability, teacher_distance)]
    batch, classes, pixels = logits.shape
    chosen, programs = _tiles("consistency_backward", maps[0])
    strides = [stride for each in (*maps, *gradients) for stride in each.stride()]
    launch(
        backward_kernel, batch * programs, upstream.float().contiguous(), *maps, mask.view(torch.uint8), *gradients,
        pixels, programs, slope, *strides, C=classes, D=distance.shape[1], BLOCK=chosen.block, warps=chosen.warps,
    )  # fmt: skip
    return gradients
