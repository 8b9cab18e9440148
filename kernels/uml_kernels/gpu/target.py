"""What every kernel of a target begins with: class numbers, and which pixels count."""

import triton
import triton.language as tl


@triton.jit
def load_classes(pointer, mask, ignore_index, C: tl.constexpr):
    """Class numbers as int32; which pixels count; and their weight: 1, or NaN where the number is no class.

    What does not count or is no class reads as class 0, so that all else that is formed of the pixel stays right.
    """
    number = tl.load(pointer, mask=mask, other=0)
    counted = mask & (number != ignore_index)
    unknown = counted & ((number < 0) | (number >= C))
    tl.device_assert(unknown == 0, "a target is no class")  # with UML_KERNELS_DEBUG only
    known = tl.where(counted & (unknown == 0), number, 0).to(tl.int32)
    return known, counted, tl.where(unknown, float("nan"), 1.0)
