"""A kernel that evaluates the kernels' shared functions on single pixels."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from uml_kernels.gpu.dirichlet import hard_pixel, soft_pixel


@triton.jit
def _kernel(evidence, target, values, derivatives, N, C: tl.constexpr, SOFT: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    mask = at < N
    each, shares = (), ()
    for c in tl.static_range(C):
        each += (tl.load(evidence + at * C + c, mask=mask, other=0.0),)
        if SOFT:
            shares += (tl.load(target + at * C + c, mask=mask, other=0.0),)
    if SOFT:
        cross_entropy, kl, by_cross_entropy, by_kl, _ = soft_pixel(each, shares, C)
    else:
        number = tl.load(target + at, mask=mask, other=0).to(tl.int32)
        cross_entropy, kl, by_cross_entropy, by_kl, _ = hard_pixel(each, number, C)
    tl.store(values + at, cross_entropy, mask=mask)
    tl.store(values + N + at, kl, mask=mask)
    for c in tl.static_range(C):
        tl.store(derivatives + at * C + c, by_cross_entropy[c], mask=mask)
        tl.store(derivatives + (N + at) * C + c, by_kl[c], mask=mask)


def run(evidence: Tensor, target: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Evaluate on the GPU or in the interpreter; see `pixel_terms.pixel_terms`."""
    count, classes = evidence.shape
    values, derivatives = evidence.new_empty(2, count), evidence.new_empty(2, count, classes)
    block = triton.next_power_of_2(count)
    _kernel[(1,)](evidence, target, values, derivatives, count, classes, target.is_floating_point(), block)
    torch._assert_async(values.isfinite().all())
    return (values[0], values[1]), (derivatives[0], derivatives[1])
