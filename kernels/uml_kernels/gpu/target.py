"""Loading of class indices: the first step of every kernel with a target."""

import triton
import triton.language as tl


@triton.jit
def load_classes(pointer, mask, ignore_index, C: tl.constexpr):
    """Load class indices.

    Returns:
        The indices as int32, the mask of valid pixels, and their weight: 1, or NaN where the index is not a class.
        Ignored pixels and indices that are not classes become class 0, so that all other values stay valid.
    """
    number = tl.load(pointer, mask=mask, other=0)
    counted = mask & (number != ignore_index)
    unknown = counted & ((number < 0) | (number >= C))
    tl.device_assert(unknown == 0, "the target contains an index that is not a class")  # only with UML_KERNELS_DEBUG
    known = tl.where(counted & (unknown == 0), number, 0).to(tl.int32)
    return known, counted, tl.where(unknown, float("nan"), 1.0)
