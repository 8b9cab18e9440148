"""Kernels that combine sums into a loss: one program forward and one backward replace dozens of small launches.

Samples are rows and classes are lanes. Rows are added in a fixed order, so two runs are bitwise equal.
"""

import triton
import triton.language as tl


@triton.jit
def _rows(
    sums,
    weight,
    first,
    B,
    K: tl.constexpr,
    DICE_AT: tl.constexpr,
    C: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Load ROWS samples.

    Returns:
        Pointers to their sums, the mask of existing rows, the sample weights, the intersections (ROWS, LANES), and the
        sums of predicted and target (ROWS, LANES).
    """
    row = first + tl.arange(0, ROWS)
    inside = row < B
    at = sums + row.to(tl.int64) * K
    factor = tl.where(inside, 1.0, 0.0)
    if weight is not None:
        factor = tl.load(weight + row, mask=inside, other=0.0).to(tl.float32)
    lane = tl.arange(0, LANES)[None, :]
    mask = inside[:, None] & (lane < C)
    overlaps = at[:, None] + (DICE_AT + lane)
    intersection = tl.load(overlaps, mask=mask, other=0.0)
    both = tl.load(overlaps + C, mask=mask, other=0.0) + tl.load(overlaps + 2 * C, mask=mask, other=0.0)
    return at, inside, factor, intersection, both


@triton.jit
def _loss_of_overlap(numerator, denominator, inside, C: tl.constexpr, NEGATIVE_LOG: tl.constexpr):
    """Return -ln D or 1 - D, divided by the number of classes; 0 in lanes without a class."""
    overlap = numerator / denominator
    if NEGATIVE_LOG:
        each = -tl.log(tl.where(inside, overlap, 1.0))
    else:
        each = 1.0 - overlap
    return tl.where(inside, each, 0.0) * (1.0 / max(C, 1))


@triton.jit
def _totals(
    sums, weight, B, smooth, K: tl.constexpr, DICE_AT: tl.constexpr, C: tl.constexpr, LANES: tl.constexpr,
    ROWS: tl.constexpr, ITERATIONS: tl.constexpr, PER_SAMPLE: tl.constexpr, NEGATIVE_LOG: tl.constexpr,
):  # fmt: skip
    """Add the weighted sums of one map over its samples.

    Returns:
        Count, cross-entropy, KL and vacuity; intersection and predicted plus target of Dice (LANES,); the total of the
        per-sample Dice losses and the weighted number of samples in it.
    """
    count, cross_entropy = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    kl, vacuity = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    of_samples, samples = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    intersection, both = tl.zeros([ROWS, LANES], tl.float32), tl.zeros([ROWS, LANES], tl.float32)
    for i in range(ITERATIONS):
        first = i * ROWS
        at, inside, factor, own, other = _rows(sums, weight, first, B, K, DICE_AT, C, LANES, ROWS)
        counted = tl.load(at, mask=inside, other=0.0)
        count += factor * counted
        cross_entropy += factor * tl.load(at + 1, mask=inside, other=0.0)
        if DICE_AT == 4:
            kl += factor * tl.load(at + 2, mask=inside, other=0.0)
            vacuity += factor * tl.load(at + 3, mask=inside, other=0.0)
        if PER_SAMPLE:
            share = tl.where(counted > 0, factor, 0.0)
            lanes = (tl.arange(0, LANES) < C)[None, :]
            each = _loss_of_overlap(2.0 * own + smooth, other + smooth, lanes, C, NEGATIVE_LOG)
            of_samples += share * tl.sum(each, 1)
            samples += share
        else:
            intersection += factor[:, None] * own
            both += factor[:, None] * other
    return (
        tl.sum(count, 0), tl.sum(cross_entropy, 0), tl.sum(kl, 0), tl.sum(vacuity, 0), tl.sum(intersection, 0),
        tl.sum(both, 0), tl.sum(of_samples, 0), tl.sum(samples, 0),
    )  # fmt: skip


@triton.jit
def _divided_by(given, count):
    """Return the denominator of a mean: the given scalar, or else the count, or 1 if the count is 0."""
    if given is not None:
        return tl.load(given).to(tl.float32)
    else:  # required: Triton also compiles the code after a return
        return tl.where(count > 0, count, 1.0)


@triton.jit
def _terms(
    sums, weight, divisor, dice_divisor, B, smooth, K: tl.constexpr, DICE_AT: tl.constexpr, C: tl.constexpr,
    LANES: tl.constexpr, ROWS: tl.constexpr, ITERATIONS: tl.constexpr, PER_SAMPLE: tl.constexpr,
    NEGATIVE_LOG: tl.constexpr,
):  # fmt: skip
    """Return mean cross-entropy, KL and vacuity of one map, and its Dice loss."""
    count, cross_entropy, kl, vacuity, intersection, both, of_samples, samples = _totals(
        sums, weight, B, smooth, K, DICE_AT, C, LANES, ROWS, ITERATIONS, PER_SAMPLE, NEGATIVE_LOG
    )
    by = _divided_by(divisor, count)
    if C == 0:
        dice = 0.0 * by
    elif PER_SAMPLE:
        dice = of_samples / _divided_by(dice_divisor, samples)
    else:
        lanes = tl.arange(0, LANES) < C
        dice = tl.sum(_loss_of_overlap(2.0 * intersection + smooth, both + smooth, lanes, C, NEGATIVE_LOG), 0)
    return cross_entropy / by, kl / by, vacuity / by, dice


@triton.jit
def forward_kernel(
    kl_weight,
    evidential,  # or None: (M, B, 4 [+ 3 C])
    levels,  # or None: (L, B, 2 + 3 C)
    weight,  # or None: (B,)
    divisor,  # or None
    dice_divisor,  # or None
    loss,
    terms,  # (M + L, 4)
    B,
    term_weights,  # 3 (M + L) numbers
    smooth,
    M: tl.constexpr,
    L: tl.constexpr,
    C: tl.constexpr,
    OVERLAPS: tl.constexpr,  # whether the evidential sums include Dice sums
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
    ITERATIONS: tl.constexpr,  # number of blocks of ROWS samples that cover B
    PER_SAMPLE: tl.constexpr,
    NEGATIVE_LOG: tl.constexpr,
):
    """Compute the loss and the terms of every map in one program."""
    K: tl.constexpr = 4 + 3 * C if OVERLAPS else 4
    of_kl = tl.load(kl_weight).to(tl.float32)
    total = 0.0 * of_kl
    for n in tl.static_range(M + L):
        if n < M:
            cross_entropy, kl, vacuity, dice = _terms(
                evidential + n * B * K, weight, divisor, dice_divisor, B, smooth, K, 4, C if OVERLAPS else 0, LANES,
                ROWS, ITERATIONS, PER_SAMPLE, NEGATIVE_LOG,
            )  # fmt: skip
        else:
            cross_entropy, kl, vacuity, dice = _terms(
                levels + (n - M) * B * (2 + 3 * C), weight, divisor, dice_divisor, B, smooth, 2 + 3 * C, 2, C, LANES,
                ROWS, ITERATIONS, PER_SAMPLE, NEGATIVE_LOG,
            )  # fmt: skip
        total += (
            term_weights[3 * n] * cross_entropy + term_weights[3 * n + 1] * of_kl * kl + term_weights[3 * n + 2] * dice
        )
        tl.store(terms + 4 * n, cross_entropy)
        tl.store(terms + 4 * n + 1, kl)
        tl.store(terms + 4 * n + 2, vacuity)
        tl.store(terms + 4 * n + 3, dice)
    tl.store(loss, total)


@triton.jit
def _differentiate(
    sums, gradient, of_cross_entropy, of_kl, of_dice, weight, divisor, dice_divisor, B, smooth, K: tl.constexpr,
    DICE_AT: tl.constexpr, C: tl.constexpr, LANES: tl.constexpr, ROWS: tl.constexpr, ITERATIONS: tl.constexpr,
    PER_SAMPLE: tl.constexpr, NEGATIVE_LOG: tl.constexpr,
):  # fmt: skip
    """Store the gradient of one map's sums."""
    count, _, _, _, total_intersection, total_both, _, samples = _totals(
        sums, weight, B, smooth, K, DICE_AT, C, LANES, ROWS, ITERATIONS, PER_SAMPLE, NEGATIVE_LOG
    )
    inverse = 1.0 / _divided_by(divisor, count)
    if PER_SAMPLE:
        of_dice /= _divided_by(dice_divisor, samples)
    lane = tl.arange(0, LANES)[None, :]
    for i in range(ITERATIONS):
        first = i * ROWS
        at, inside, factor, intersection, both = _rows(sums, weight, first, B, K, DICE_AT, C, LANES, ROWS)
        to = gradient + (first + tl.arange(0, ROWS)).to(tl.int64) * K
        zero = tl.zeros([ROWS], tl.float32)
        tl.store(to, zero, mask=inside)
        tl.store(to + 1, factor * (of_cross_entropy * inverse), mask=inside)
        if DICE_AT == 4:
            tl.store(to + 2, factor * (of_kl * inverse), mask=inside)
            tl.store(to + 3, zero, mask=inside)
        if C > 0:
            share = factor
            if PER_SAMPLE:
                share = tl.where(tl.load(at, mask=inside, other=0.0) > 0, factor, 0.0)
                numerator, denominator = 2.0 * intersection + smooth, both + smooth
            else:
                numerator, denominator = 2.0 * total_intersection[None, :] + smooth, total_both[None, :] + smooth
            share = (share * (of_dice * (1.0 / C)))[:, None]
            if NEGATIVE_LOG:
                for_intersection, for_both = -2.0 / numerator, 1.0 / denominator
            else:
                for_intersection, for_both = -2.0 / denominator, numerator / (denominator * denominator)
            mask = inside[:, None] & (lane < C)
            pointer = to[:, None] + (DICE_AT + lane)
            tl.store(pointer, share * for_intersection, mask=mask)
            tl.store(pointer + C, share * for_both, mask=mask)
            tl.store(pointer + 2 * C, tl.zeros([ROWS, LANES], tl.float32), mask=mask)


@triton.jit
def backward_kernel(
    kl_weight,
    for_loss,  # or None
    for_terms,  # or None: (M + L, 4)
    evidential,  # or None
    levels,  # or None
    weight,  # or None
    divisor,  # or None
    dice_divisor,  # or None
    evidential_gradient,  # or None
    levels_gradient,  # or None
    B,
    term_weights,
    smooth,
    M: tl.constexpr,
    L: tl.constexpr,
    C: tl.constexpr,
    OVERLAPS: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
    ITERATIONS: tl.constexpr,  # number of blocks of ROWS samples that cover B
    PER_SAMPLE: tl.constexpr,
    NEGATIVE_LOG: tl.constexpr,
):
    """Compute the gradient of all sums in one program."""
    K: tl.constexpr = 4 + 3 * C if OVERLAPS else 4
    lambda_kl = tl.load(kl_weight).to(tl.float32)
    upstream = 0.0 * lambda_kl
    if for_loss is not None:
        upstream = tl.load(for_loss).to(tl.float32)
    for n in tl.static_range(M + L):
        of_cross_entropy, of_kl = upstream * term_weights[3 * n], upstream * term_weights[3 * n + 1] * lambda_kl
        of_dice = upstream * term_weights[3 * n + 2]
        if for_terms is not None:
            of_cross_entropy += tl.load(for_terms + 4 * n)
            of_kl += tl.load(for_terms + 4 * n + 1)
            of_dice += tl.load(for_terms + 4 * n + 3)
        if n < M:
            _differentiate(
                evidential + n * B * K, evidential_gradient + n * B * K, of_cross_entropy, of_kl, of_dice, weight,
                divisor, dice_divisor, B, smooth, K, 4, C if OVERLAPS else 0, LANES, ROWS, ITERATIONS, PER_SAMPLE,
                NEGATIVE_LOG,
            )  # fmt: skip
        else:
            at = (n - M) * B * (2 + 3 * C)
            _differentiate(
                levels + at, levels_gradient + at, of_cross_entropy, of_kl, of_dice, weight, divisor, dice_divisor, B,
                smooth, 2 + 3 * C, 2, C, LANES, ROWS, ITERATIONS, PER_SAMPLE, NEGATIVE_LOG,
            )  # fmt: skip
