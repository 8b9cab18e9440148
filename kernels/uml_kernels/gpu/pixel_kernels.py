"""What several kernels do with the values of a pixel's classes, in registers."""

import triton
import triton.language as tl

from uml_kernels.special import exponential, reciprocal


@triton.jit
def load_values(pointer, offset, stride_class, mask, C: tl.constexpr):
    """Return C values of each pixel in float32 as a tuple; `pointer` points to the first. Masked pixels have 0."""
    values = ()
    for c in tl.static_range(C):
        of_class = pointer + tl.cast(c, tl.int64) * stride_class
        values += (tl.load(of_class + offset, mask=mask, other=0.0).to(tl.float32),)
    return values


@triton.jit
def softmax(logits, C: tl.constexpr):
    """Return the softmax of a tuple of C logits, the sum of the exponentials, and the maximum that was subtracted."""
    largest = logits[0]
    for c in tl.static_range(1, C):
        largest = tl.maximum(largest, logits[c])
    total, powers = tl.zeros_like(largest), ()
    for c in tl.static_range(C):
        power = exponential(logits[c] - largest)
        total += power
        powers += (power,)
    inverse, q = reciprocal(total), ()
    for c in tl.static_range(C):
        q += (powers[c] * inverse,)
    return q, total, largest
