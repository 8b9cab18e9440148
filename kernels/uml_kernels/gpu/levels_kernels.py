"""Kernels of the level sums: one forward, one backward, without storing an upsampled map.

Coordinates are exact: pixel y is at y (h - 1) / (H' - 1) points, and integer arithmetic computes both the point and the
remainder, so that the gradient matches the value. Forward, a program processes some rows of BLOCK columns of one sample
and level and writes one row of partial sums. Backward, a program gathers the gradients of the pixels around its points:
a lane processes some rows of the pixels between its point and the next one, and passes the next point's share to its
neighbour. Only the pixels above and below a point are computed twice. There are no atomics, so two runs are
bitwise equal.
"""

import triton
import triton.language as tl

from uml_kernels.special import logarithm

from .pixel_kernels import softmax
from .target import load_classes


@triton.jit
def _below(index, less, whole):
    """Return the point before or at a pixel, and the pixel's relative position between it and the next, 0 to 1."""
    place = index * less
    point = place // whole
    return point, (place - point * whole).to(tl.float32) * (1.0 / whole)


@triton.jit
def _sum_level(
    logits,
    target,
    row,  # pointer to 2 + 3 C sums
    sample,
    first,  # first row of pixels
    column,
    H,
    W,
    whole_height,
    whole_width,
    height,
    width,
    stride_sample,
    stride_class,
    stride_pixel,
    ignore_index,
    C: tl.constexpr,
    SPREAD: tl.constexpr,
    ITERATIONS: tl.constexpr,
):
    """Store the sums over the pixels of some columns and ITERATIONS rows."""
    logits += sample * stride_sample
    left, right, rightness = column, column, 0.0
    if SPREAD:
        left, rightness = _below(column, width - 1, whole_width)
        right = tl.minimum(left + 1, width - 1) * stride_pixel
        left *= stride_pixel
    zero = tl.zeros_like(column).to(tl.float32)
    K: tl.constexpr = 2 + 3 * C
    sums = ()
    for _ in tl.static_range(K):
        sums += (zero,)
    for i in range(ITERATIONS):
        y = first + i
        mask = column < tl.where(y < H, W, 0)
        number, counted, factor = load_classes(target + (sample * H + y) * W + column, mask, ignore_index, C)
        values = ()
        if SPREAD:
            point, lowness = _below(y, height - 1, whole_height)
            upper = point.to(tl.int64) * width * stride_pixel
            lower = tl.minimum(point + 1, height - 1).to(tl.int64) * width * stride_pixel
            for c in tl.static_range(C):
                plane = logits + tl.cast(c, tl.int64) * stride_class
                a = tl.load(plane + upper + left, mask=mask, other=0.0).to(tl.float32)
                b = tl.load(plane + upper + right, mask=mask, other=0.0).to(tl.float32)
                d = tl.load(plane + lower + left, mask=mask, other=0.0).to(tl.float32)
                e = tl.load(plane + lower + right, mask=mask, other=0.0).to(tl.float32)
                above, below = (1.0 - rightness) * a + rightness * b, (1.0 - rightness) * d + rightness * e
                values += ((1.0 - lowness) * above + lowness * below,)
        else:
            start = tl.cast(y, tl.int64) * width * stride_pixel
            for c in tl.static_range(C):
                plane = logits + tl.cast(c, tl.int64) * stride_class
                value = tl.load(plane + start + column * stride_pixel, mask=mask, other=0.0).to(tl.float32)
                values += (value,)
        factor = tl.where(counted, factor, 0.0)
        cleaned = ()
        for c in tl.static_range(C):
            cleaned += (tl.where(counted, values[c], 0.0),)
        q, total, largest = softmax(cleaned, C)
        own = cleaned[0]
        for c in tl.static_range(1, C):
            own = tl.where(number == c, cleaned[c], own)
        added = (sums[0] + factor, sums[1] + factor * (logarithm(total) - (own - largest)))
        for c in tl.static_range(C):
            added += (sums[2 + c] + tl.where(number == c, factor, 0.0) * q[c],)
        for c in tl.static_range(C):
            added += (sums[2 + C + c] + factor * q[c],)
        for c in tl.static_range(C):
            added += (sums[2 + 2 * C + c] + tl.where(number == c, factor, 0.0),)
        sums = added
    count = tl.sum(sums[0], 0)
    tl.store(row, count)
    for k in tl.static_range(1, K):
        tl.store(row + k, tl.sum(sums[k], 0) + 0.0 * count)  # NaN like the count if an index is not a class


@triton.jit
def forward_kernel(
    first,
    second,  # or None
    third,  # or None
    fourth,  # or None
    target,
    partial,  # (levels, B, programs of a sample, 2 + 3 C)
    B,
    H,
    W,
    whole_height,
    whole_width,
    first_height,
    first_width,
    first_stride_sample,
    first_stride_class,
    first_stride_pixel,
    second_height,
    second_width,
    second_stride_sample,
    second_stride_class,
    second_stride_pixel,
    third_height,
    third_width,
    third_stride_sample,
    third_stride_class,
    third_stride_pixel,
    fourth_height,
    fourth_width,
    fourth_stride_sample,
    fourth_stride_class,
    fourth_stride_pixel,
    ignore_index,
    C: tl.constexpr,
    FIRST: tl.constexpr,  # whether the level is interpolated; False if it has the target's size
    SECOND: tl.constexpr,
    THIRD: tl.constexpr,
    FOURTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ITERATIONS: tl.constexpr,
):
    """Compute the sums of every level."""
    program = tl.program_id(0)
    row = partial + program.to(tl.int64) * (2 + 3 * C)
    across = tl.cdiv(W, BLOCK)
    programs = tl.cdiv(H, ITERATIONS) * across
    level = program // (B * programs)
    sample = (program // programs % B).to(tl.int64)
    y = program % programs // across * ITERATIONS
    x = program % across * BLOCK + tl.arange(0, BLOCK)
    if level == 0:
        _sum_level(
            first, target, row, sample, y, x, H, W, whole_height, whole_width, first_height, first_width,
            first_stride_sample, first_stride_class, first_stride_pixel, ignore_index, C, FIRST, ITERATIONS,
        )  # fmt: skip
    if second is not None:
        if level == 1:
            _sum_level(
                second, target, row, sample, y, x, H, W, whole_height, whole_width, second_height, second_width,
                second_stride_sample, second_stride_class, second_stride_pixel, ignore_index, C, SECOND, ITERATIONS,
            )  # fmt: skip
    if third is not None:
        if level == 2:
            _sum_level(
                third, target, row, sample, y, x, H, W, whole_height, whole_width, third_height, third_width,
                third_stride_sample, third_stride_class, third_stride_pixel, ignore_index, C, THIRD, ITERATIONS,
            )  # fmt: skip
    if fourth is not None:
        if level == 3:
            _sum_level(
                fourth, target, row, sample, y, x, H, W, whole_height, whole_width, fourth_height, fourth_width,
                fourth_stride_sample, fourth_stride_class, fourth_stride_pixel, ignore_index, C, FOURTH, ITERATIONS,
            )  # fmt: skip


@triton.jit
def _pixel_gradient(values, number, factor, upstream, C: tl.constexpr):
    """Return the gradient of a pixel's C logits."""
    q, _, _ = softmax(values, C)
    of_cross_entropy = tl.load(upstream + 1)
    asked, mean = (), tl.zeros_like(values[0])
    for c in tl.static_range(C):
        ask = tl.load(upstream + 2 + C + c) + tl.where(number == c, tl.load(upstream + 2 + c), 0.0)
        asked += (ask,)
        mean += q[c] * ask
    result = ()
    for c in tl.static_range(C):
        value = q[c] * (asked[c] - mean + of_cross_entropy) - tl.where(number == c, of_cross_entropy, 0.0)
        result += (factor * value,)
    return result


@triton.jit
def _asked_of_points(
    logits,
    gradient,
    target,
    upstream,
    sample,
    start,
    H,
    W,
    whole_height,
    whole_width,
    height,
    width,
    stride_class,
    stride_pixel,
    ignore_index,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store the gradient of BLOCK // ROWS - 1 points from `start` on; the lane before them contributes to the first."""
    POINTS: tl.constexpr = BLOCK // ROWS
    line = start - 1 + tl.arange(0, POINTS)
    inside_line = (line >= 0) & (line < height * width)
    point, inside = tl.maximum(line, 0)[:, None], inside_line[:, None]
    i, j = point // width, point % width
    less_height, less_width = tl.maximum(height - 1, 1), tl.maximum(width - 1, 1)
    inverse_height, inverse_width = 1.0 / whole_height, 1.0 / whole_width
    # The rows within the point's influence, and the columns from the point up to the next point.
    first_row = tl.where(i > 0, (i - 1) * whole_height // less_height + 1, 0)
    last_row = tl.where(height > 1, tl.minimum(((i + 1) * whole_height - 1) // less_height, H - 1), H - 1)
    rows = tl.max(tl.where(inside, last_row - first_row + 1, 0))
    first_column = (j * whole_width + less_width - 1) // less_width
    first_place = first_column * (width - 1) - j * whole_width
    columns = tl.where(width > 1, tl.minimum((whole_width + less_width - 1) // less_width, W), W)
    left = logits + point.to(tl.int64) * stride_pixel
    step = tl.where(j < width - 1, stride_pixel, 0)
    zero = tl.zeros([POINTS, ROWS], tl.float32)
    sums = ()
    for _ in tl.static_range(2 * C):
        sums += (zero,)
    for r in range(0, rows, ROWS):
        y = first_row + r + tl.arange(0, ROWS)[None, :]
        distance = y * (height - 1) - i * whole_height
        valid = inside & (y < H) & (tl.abs(distance) < whole_height)
        farness = tl.abs(distance).to(tl.float32) * inverse_height
        other = tl.minimum(tl.maximum(tl.where(distance < 0, i - 1, i + 1), 0), height - 1)
        away = (other - i) * width * stride_pixel
        lefts, rights = (), ()
        for c in tl.static_range(C):
            near = left + tl.cast(c, tl.int64) * stride_class
            a = tl.load(near, mask=inside, other=0.0).to(tl.float32)
            b = tl.load(near + step, mask=inside, other=0.0).to(tl.float32)
            d = tl.load(near + away, mask=valid, other=0.0).to(tl.float32)
            e = tl.load(near + away + step, mask=valid, other=0.0).to(tl.float32)
            lefts += ((1.0 - farness) * a + farness * d,)
            rights += ((1.0 - farness) * b + farness * e,)
        pixels = target + (sample * H + y) * W + first_column
        for k in range(columns):
            place = first_place + k * (width - 1)
            within = valid & (k < W - first_column) & (place < whole_width)
            rightness = place.to(tl.float32) * inverse_width + zero
            number, counted, factor = load_classes(pixels + k, within, ignore_index, C)
            values, near_sums, next_sums = (), (), ()
            for c in tl.static_range(C):
                values += ((1.0 - rightness) * lefts[c] + rightness * rights[c],)
            slopes = _pixel_gradient(values, number, factor * (1.0 - farness), upstream, C)
            for c in tl.static_range(C):
                slope = tl.where(counted, slopes[c], 0.0)
                share = rightness * slope
                near_sums += (sums[c] + (slope - share),)
                next_sums += (sums[C + c] + share,)
            sums = near_sums + next_sums
    lane = tl.arange(0, POINTS)
    first_in_row = line % width == 0
    stored = inside_line & (lane > 0)
    pointer = gradient + tl.maximum(line, 0).to(tl.int64) * stride_pixel
    for c in tl.static_range(C):
        before = tl.gather(tl.sum(sums[C + c], 1), tl.maximum(lane - 1, 0), 0)
        value = tl.sum(sums[c], 1) + tl.where(first_in_row, 0.0, before)
        tl.store(pointer + tl.cast(c, tl.int64) * stride_class, value.to(gradient.dtype.element_ty), mask=stored)


@triton.jit
def _differentiate_level(
    logits,
    gradient,
    target,
    upstream,  # (B, 2 + 3 C), the level's
    program,
    H,
    W,
    whole_height,
    whole_width,
    height,
    width,
    stride_sample,
    stride_class,
    stride_pixel,
    ignore_index,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store the gradient of some points of one sample; `program` counts from the level's first program."""
    TAKEN: tl.constexpr = BLOCK if ROWS == 0 else BLOCK // ROWS - 1
    programs = tl.cdiv(height * width, TAKEN)
    sample = (program // programs).to(tl.int64)
    start = program % programs * TAKEN
    logits += sample * stride_sample
    gradient += sample * stride_sample
    upstream += sample * (2 + 3 * C)
    if ROWS == 0:
        point = start + tl.arange(0, BLOCK)
        mask = point < height * width
        number, counted, factor = load_classes(target + sample * H * W + point, mask, ignore_index, C)
        at, values = point.to(tl.int64) * stride_pixel, ()
        for c in tl.static_range(C):
            pointer = logits + tl.cast(c, tl.int64) * stride_class + at
            values += (tl.load(pointer, mask=mask, other=0.0).to(tl.float32),)
        slopes = _pixel_gradient(values, number, factor, upstream, C)
        for c in tl.static_range(C):
            pointer = gradient + tl.cast(c, tl.int64) * stride_class + at
            tl.store(pointer, tl.where(counted, slopes[c], 0.0).to(gradient.dtype.element_ty), mask=mask)
    else:
        _asked_of_points(
            logits, gradient, target, upstream, sample, start, H, W, whole_height, whole_width, height, width,
            stride_class, stride_pixel, ignore_index, C, ROWS, BLOCK,
        )  # fmt: skip


@triton.jit
def backward_kernel(
    first,
    second,  # or None
    third,  # or None
    fourth,  # or None
    first_gradient,  # has the strides of the level
    second_gradient,  # or None
    third_gradient,  # or None
    fourth_gradient,  # or None
    target,
    upstream,  # (levels, B, 2 + 3 C)
    B,
    H,
    W,
    whole_height,
    whole_width,
    first_height,
    first_width,
    first_stride_sample,
    first_stride_class,
    first_stride_pixel,
    second_height,
    second_width,
    second_stride_sample,
    second_stride_class,
    second_stride_pixel,
    third_height,
    third_width,
    third_stride_sample,
    third_stride_class,
    third_stride_pixel,
    fourth_height,
    fourth_width,
    fourth_stride_sample,
    fourth_stride_class,
    fourth_stride_pixel,
    ends_first,  # number of programs up to the end of the first level, and so on
    ends_second,
    ends_third,
    ignore_index,
    C: tl.constexpr,
    FIRST: tl.constexpr,  # rows of pixels that a block processes at a time; 0 for a level of the target's size
    SECOND: tl.constexpr,
    THIRD: tl.constexpr,
    FOURTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute the gradient of every level."""
    program = tl.program_id(0)
    of_level = B * (2 + 3 * C)
    if program < ends_first:
        _differentiate_level(
            first, first_gradient, target, upstream, program, H, W, whole_height, whole_width, first_height,
            first_width, first_stride_sample, first_stride_class, first_stride_pixel, ignore_index, C, FIRST, BLOCK,
        )  # fmt: skip
    if second is not None:
        if (program >= ends_first) & (program < ends_second):
            _differentiate_level(
                second, second_gradient, target, upstream + of_level, program - ends_first, H, W, whole_height,
                whole_width, second_height, second_width, second_stride_sample, second_stride_class,
                second_stride_pixel, ignore_index, C, SECOND, BLOCK,
            )  # fmt: skip
    if third is not None:
        if (program >= ends_second) & (program < ends_third):
            _differentiate_level(
                third, third_gradient, target, upstream + 2 * of_level, program - ends_second, H, W, whole_height,
                whole_width, third_height, third_width, third_stride_sample, third_stride_class, third_stride_pixel,
                ignore_index, C, THIRD, BLOCK,
            )  # fmt: skip
    if fourth is not None:
        if program >= ends_third:
            _differentiate_level(
                fourth, fourth_gradient, target, upstream + 3 * of_level, program - ends_third, H, W, whole_height,
                whole_width, fourth_height, fourth_width, fourth_stride_sample, fourth_stride_class,
                fourth_stride_pixel, ignore_index, C, FOURTH, BLOCK,
            )  # fmt: skip
