"""The evidential objective: one kernel forward, one backward; each reads the logits once.

A program takes ITERATIONS blocks of BLOCK pixels of one sample and writes one row of partial sums, which torch adds in
a fixed order: no atomics, so that two runs are bitwise equal.
"""

import triton
import triton.language as tl

from uml_kernels.special import LOG2_E, reciprocal

from .dirichlet import hard_pixel, soft_pixel
from .evidence import load_evidence, total
from .target import load_classes


@triton.jit
def _load_target(target, sample, start, offset, mask, P, ignore_index, C: tl.constexpr, SOFT: tl.constexpr):
    """Class number, or tuple of shares; which pixels count; and their weight, NaN where the number is no class."""
    if SOFT:
        shares = ()
        for c in tl.static_range(C):
            base = target + (sample * C + c) * P + start
            shares += (tl.load(base + offset, mask=mask, other=0.0).to(tl.float32),)
        return shares, mask, tl.zeros_like(shares[0]) + 1.0
    else:
        return load_classes(target + sample * P + start + offset, mask, ignore_index, C)


@triton.jit
def _weigh(target, weight, class_weight, at, offset, mask, counted, factor, C: tl.constexpr, SOFT: tl.constexpr):
    """Which pixels count, their weight in the Dice sums, and that in the loss."""
    if weight is not None:
        given = tl.load(weight + at + offset, mask=mask, other=0.0).to(tl.float32)
        counted = counted & (given != 0)
        factor = factor * given
    loss_factor = factor
    if class_weight is not None:
        of_class = tl.zeros_like(factor)
        for c in tl.static_range(C):
            of_class += tl.where(target == c, tl.load(class_weight + c).to(tl.float32), 0.0)
        loss_factor = factor * of_class
    return counted, factor, loss_factor


@triton.jit
def _pixel(evidence, target, C: tl.constexpr, SOFT: tl.constexpr):
    if SOFT:
        return soft_pixel(evidence, target, C)
    else:  # what follows a return is compiled too
        return hard_pixel(evidence, target, C)


@triton.jit
def _share(target, c: tl.constexpr, SOFT: tl.constexpr):
    """The target's share of class c."""
    if SOFT:
        return target[c]
    else:
        return tl.where(target == c, 1.0, 0.0)


@triton.jit
def _probability(evidence, inverse_strength, C: tl.constexpr, DICE: tl.constexpr):
    """What overlaps with the mask: softmax of the evidence, or alpha / S."""
    probability = ()
    if DICE == "expected":
        for c in tl.static_range(C):
            probability += ((evidence[c] + 1.0) * inverse_strength,)
        return probability
    largest = evidence[0]
    for c in tl.static_range(1, C):
        largest = tl.maximum(largest, evidence[c])
    for c in tl.static_range(C):
        probability += (tl.exp2((evidence[c] - largest) * LOG2_E),)
    inverse = reciprocal(total(probability, C))
    result = ()
    for c in tl.static_range(C):
        result += (probability[c] * inverse,)
    return result


@triton.jit
def forward_kernel(
    logits,
    target,
    weight,  # or None
    class_weight,  # or None
    kl_weight,  # of `loss` and `gradient`
    scale,  # of `gradient`
    partial,  # or None: (B, programs of a sample, 4 [+ 3 C])
    loss,  # or None: (B, P)
    vacuity,  # or None: (B, P)
    gradient,  # or None: strided as the logits
    P,
    programs,
    stride_sample,
    stride_class,
    stride_pixel,
    ignore_index,
    C: tl.constexpr,
    KIND: tl.constexpr,
    SOFT: tl.constexpr,
    DICE: tl.constexpr,
    BLOCK: tl.constexpr,
    ITERATIONS: tl.constexpr,
):
    """Sums, or loss, of the pixels; with a gradient for an upstream one of `scale`."""
    program = tl.program_id(0)
    sample = (program // programs).to(tl.int64)
    first = (program % programs).to(tl.int64) * (BLOCK * ITERATIONS)
    offset = tl.arange(0, BLOCK)
    zero = tl.zeros([BLOCK], tl.float32)
    K: tl.constexpr = 4 if DICE == "none" else 4 + 3 * C
    sums = ()
    for _ in tl.static_range(K):
        sums += (zero,)
    for i in range(tl.minimum(ITERATIONS, tl.cdiv(P - first, BLOCK)).to(tl.int32)):
        start = first + i * BLOCK
        mask = offset < P - start
        at = sample * P + start
        base = sample * stride_sample + start * stride_pixel
        evidence, slopes = load_evidence(logits + base, offset * stride_pixel, stride_class, mask, C, KIND)
        y, counted, factor = _load_target(target, sample, start, offset, mask, P, ignore_index, C, SOFT)
        counted, factor, loss_factor = _weigh(y, weight, class_weight, at, offset, mask, counted, factor, C, SOFT)
        cross_entropy, kl, dce, dkl, inverse_strength = _pixel(evidence, y, C, SOFT)
        if loss is not None:
            value = loss_factor * (cross_entropy + tl.load(kl_weight) * kl)
            tl.store(loss + at + offset, tl.where(counted, value, 0.0), mask=mask)
        if gradient is not None:
            upstream = tl.load(scale) * loss_factor
            upstream_kl = upstream * tl.load(kl_weight)
            for c in tl.static_range(C):
                value = (upstream * dce[c] + upstream_kl * dkl[c]) * slopes[c]
                pointer = gradient + base + tl.cast(c, tl.int64) * stride_class + offset * stride_pixel
                tl.store(pointer, tl.where(counted, value, 0.0).to(gradient.dtype.element_ty), mask=mask)
        if vacuity is not None:
            tl.store(vacuity + at + offset, C * inverse_strength, mask=mask)
        if partial is not None:
            terms = (loss_factor, loss_factor * cross_entropy, loss_factor * kl, loss_factor * (C * inverse_strength))
            if DICE != "none":
                probability = _probability(evidence, inverse_strength, C, DICE)
                for c in tl.static_range(C):
                    terms += (factor * _share(y, c, SOFT) * probability[c],)
                for c in tl.static_range(C):
                    terms += (factor * probability[c],)
                for c in tl.static_range(C):
                    terms += (factor * _share(y, c, SOFT),)
            added = ()
            for k in tl.static_range(K):
                added += (sums[k] + tl.where(counted, terms[k], 0.0),)
            sums = added
    if partial is not None:
        row = partial + program.to(tl.int64) * K
        for k in tl.static_range(K):
            tl.store(row + k, tl.sum(sums[k], 0))


@triton.jit
def backward_kernel(
    logits,
    target,
    weight,  # or None
    class_weight,  # or None
    kl_weight,  # of a loss per pixel
    upstream,  # (B, P), or of sums (B, 4 [+ 3 C])
    gradient,
    P,
    programs,
    stride_sample,
    stride_class,
    stride_pixel,
    ignore_index,
    C: tl.constexpr,
    KIND: tl.constexpr,
    SOFT: tl.constexpr,
    DICE: tl.constexpr,
    PER_PIXEL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradient of the logits for any upstream one."""
    program = tl.program_id(0)
    sample = (program // programs).to(tl.int64)
    start = (program % programs).to(tl.int64) * BLOCK
    offset = tl.arange(0, BLOCK)
    mask = offset < P - start
    at = sample * P + start
    base = sample * stride_sample + start * stride_pixel
    evidence, slopes = load_evidence(logits + base, offset * stride_pixel, stride_class, mask, C, KIND)
    y, counted, factor = _load_target(target, sample, start, offset, mask, P, ignore_index, C, SOFT)
    counted, factor, loss_factor = _weigh(y, weight, class_weight, at, offset, mask, counted, factor, C, SOFT)
    _, _, dce, dkl, inverse_strength = _pixel(evidence, y, C, SOFT)
    if PER_PIXEL:
        of_cross_entropy = tl.load(upstream + at + offset, mask=mask, other=0.0) * loss_factor
        of_kl = of_cross_entropy * tl.load(kl_weight)
    else:
        K: tl.constexpr = 4 if DICE == "none" else 4 + 3 * C
        row = upstream + sample * K
        of_cross_entropy, of_kl = tl.load(row + 1) * loss_factor, tl.load(row + 2) * loss_factor
        if DICE != "none":
            probability = _probability(evidence, inverse_strength, C, DICE)
            asked, mean = (), tl.zeros_like(factor)
            for c in tl.static_range(C):
                ask = factor * (tl.load(row + 4 + c) * _share(y, c, SOFT) + tl.load(row + 4 + C + c))
                asked += (ask,)
                mean += probability[c] * ask
    for c in tl.static_range(C):
        value = of_cross_entropy * dce[c] + of_kl * dkl[c]
        if DICE == "softmax":
            value += probability[c] * (asked[c] - mean)
        elif DICE == "expected":
            value += inverse_strength * (asked[c] - mean)
        pointer = gradient + base + tl.cast(c, tl.int64) * stride_class + offset * stride_pixel
        tl.store(pointer, tl.where(counted, value * slopes[c], 0.0).to(gradient.dtype.element_ty), mask=mask)


@triton.jit
def rescale_kernel(values, factor, N, BLOCK: tl.constexpr):
    """Values *= factor; reads and writes nothing where the factor is 1."""
    by = tl.load(factor)
    if by != 1.0:
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        mask = at < N
        old = tl.load(values + at, mask=mask, other=0.0)
        tl.store(values + at, (old.to(tl.float32) * by).to(values.dtype.element_ty), mask=mask)
