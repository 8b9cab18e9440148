"""Kernels of the evidential objective of one to four maps: one forward, one backward; each reads the logits once.

A program processes ITERATIONS blocks of BLOCK pixels of one sample of one map and writes one row of partial sums, which
torch adds in a fixed order. There are no atomics, so two runs are bitwise equal.
"""

import triton
import triton.language as tl

from uml_kernels.special import LOG2_E, reciprocal

from .dirichlet import hard_pixel, is_class, soft_pixel
from .evidence import load_evidence, total
from .target import load_classes


@triton.jit
def _load_target(target, sample, start, offset, mask, P, ignore_index, C: tl.constexpr, SOFT: tl.constexpr):
    """Load class indices or a tuple of soft labels.

    Returns:
        The target, the mask of valid pixels, and their weight, which is NaN where the index is not a class.
    """
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
    """Return the mask of valid pixels and their weights in the Dice sums and in the loss, both 0 at other pixels."""
    if weight is not None:
        given = tl.load(weight + at + offset, mask=mask, other=0.0).to(tl.float32)
        counted = counted & (given != 0)
        factor = factor * given
    factor = tl.where(counted, factor, 0.0)
    loss_factor = factor
    if class_weight is not None:
        of_class = tl.zeros_like(factor)
        for c in tl.static_range(C):
            of_class += tl.where(is_class(target, c, C), tl.load(class_weight + c).to(tl.float32), 0.0)
        loss_factor = factor * of_class
    return counted, factor, loss_factor


@triton.jit
def _cleaned(evidence, counted, C: tl.constexpr):
    """Set evidence to 0 at excluded pixels, so that products with their weight of 0 are 0 whatever their logits."""
    result = ()
    for c in tl.static_range(C):
        result += (tl.where(counted, evidence[c], 0.0),)
    return result


@triton.jit
def _pixel(evidence, target, C: tl.constexpr, SOFT: tl.constexpr):
    if SOFT:
        return soft_pixel(evidence, target, C)
    else:  # required: Triton also compiles the code after a return
        return hard_pixel(evidence, target, C)


@triton.jit
def _share(target, factor, c: tl.constexpr, C: tl.constexpr, SOFT: tl.constexpr):
    """Return the weighted share of class c in the target."""
    if SOFT:
        return factor * target[c]
    else:
        return tl.where(is_class(target, c, C), factor, 0.0)


@triton.jit
def _probability(evidence, inverse_strength, C: tl.constexpr, DICE: tl.constexpr):
    """Return the probability in the Dice sums: softmax of the evidence, or alpha / S."""
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
def _of_map(number, first, second, third, fourth):
    """Return the pointer of a map by its number; absent maps are None."""
    pointer = first
    if second is not None:
        if number == 1:
            pointer = second
    if third is not None:
        if number == 2:
            pointer = third
    if fourth is not None:
        if number == 3:
            pointer = fourth
    return pointer


@triton.jit
def forward_kernel(
    first,
    second,  # or None
    third,  # or None
    fourth,  # or None
    target,
    weight,  # or None
    class_weight,  # or None
    kl_weight,  # for `loss`
    partial,  # or None: (maps, B, programs of a sample, 4 [+ 3 C])
    loss,  # or None: (B, P)
    vacuity,  # or None: (B, P)
    B,
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
    """Compute sums over the pixels of each sample and map, or the loss of each pixel of one map."""
    program = tl.program_id(0)
    row = program // programs
    sample = (row % B).to(tl.int64)
    logits = _of_map(row // B, first, second, third, fourth)
    begin = (program % programs).to(tl.int64) * (BLOCK * ITERATIONS)
    offset = tl.arange(0, BLOCK)
    zero = tl.zeros([BLOCK], tl.float32)
    K: tl.constexpr = 4 if DICE == "none" else 4 + 3 * C
    sums = ()
    for _ in tl.static_range(K):
        sums += (zero,)
    for i in range(tl.minimum(ITERATIONS, tl.cdiv(P - begin, BLOCK)).to(tl.int32)):
        start = begin + i * BLOCK
        mask = offset < P - start
        at = sample * P + start
        base = sample * stride_sample + start * stride_pixel
        evidence, _slopes = load_evidence(logits + base, offset * stride_pixel, stride_class, mask, C, KIND)
        y, counted, factor = _load_target(target, sample, start, offset, mask, P, ignore_index, C, SOFT)
        counted, factor, loss_factor = _weigh(y, weight, class_weight, at, offset, mask, counted, factor, C, SOFT)
        if vacuity is not None:  # excluded pixels have a vacuity too
            tl.store(vacuity + at + offset, C * reciprocal(total(evidence, C) + C), mask=mask)
        evidence = _cleaned(evidence, counted, C)
        cross_entropy, kl, _dce, _dkl, inverse_strength = _pixel(evidence, y, C, SOFT)
        if loss is not None:
            tl.store(loss + at + offset, loss_factor * (cross_entropy + tl.load(kl_weight) * kl), mask=mask)
        if partial is not None:
            added = (
                sums[0] + loss_factor,
                sums[1] + loss_factor * cross_entropy,
                sums[2] + loss_factor * kl,
                sums[3] + loss_factor * (C * inverse_strength),
            )
            if DICE != "none":
                probability = _probability(evidence, inverse_strength, C, DICE)
                for c in tl.static_range(C):
                    added += (sums[4 + c] + _share(y, factor, c, C, SOFT) * probability[c],)
                for c in tl.static_range(C):
                    added += (sums[4 + C + c] + factor * probability[c],)
                for c in tl.static_range(C):
                    added += (sums[4 + 2 * C + c] + _share(y, factor, c, C, SOFT),)
            sums = added
    if partial is not None:
        to = partial + program.to(tl.int64) * K
        count = tl.sum(sums[0], 0)
        tl.store(to, count)
        for k in tl.static_range(1, K):
            tl.store(to + k, tl.sum(sums[k], 0) + 0.0 * count)  # NaN like the count if an index is not a class


@triton.jit
def backward_kernel(
    first,
    second,  # or None
    third,  # or None
    fourth,  # or None
    target,
    weight,  # or None
    class_weight,  # or None
    kl_weight,  # if PER_PIXEL
    upstream,  # (B, P) if PER_PIXEL, else for the sums (maps, B, 4 [+ 3 C])
    first_gradient,  # has the strides of the maps
    second_gradient,  # or None
    third_gradient,  # or None
    fourth_gradient,  # or None
    B,
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
    """Compute the gradient of the logits for an upstream gradient of the sums or of each pixel's loss."""
    program = tl.program_id(0)
    row = program // programs
    sample = (row % B).to(tl.int64)
    logits = _of_map(row // B, first, second, third, fourth)
    gradient = _of_map(row // B, first_gradient, second_gradient, third_gradient, fourth_gradient)
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
        asked_of = upstream + row.to(tl.int64) * K
        of_cross_entropy, of_kl = tl.load(asked_of + 1) * loss_factor, tl.load(asked_of + 2) * loss_factor
        if DICE != "none":
            probability = _probability(evidence, inverse_strength, C, DICE)
            asked, mean = (), tl.zeros_like(factor)
            for c in tl.static_range(C):
                ask = tl.load(asked_of + 4 + c) * _share(y, factor, c, C, SOFT) + tl.load(asked_of + 4 + C + c) * factor
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
