"""CPU implementation of bilinear interpolation by torch's own operators."""

import torch
from torch import Tensor

from uml_kernels.layout import at_least_float32, memory_format


def resized(maps: Tensor, height: int, width: int) -> Tensor:
    """Interpolate maps (B, C, H, W) to (B, C, height, width)."""
    form = memory_format(maps)
    result = torch.ops.aten.upsample_bilinear2d.default(at_least_float32(maps), [height, width], True)
    return result.contiguous(memory_format=form)


def resized_backward(upstream: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """Return the gradient (B, C, height, width) of maps of that size, in the given dtype."""
    form = memory_format(upstream)
    size = [upstream.shape[0], upstream.shape[1], height, width]
    # The operator assumes that its argument is contiguous or channels last
    upstream = at_least_float32(upstream).contiguous(memory_format=form)
    gradient = torch.ops.aten.upsample_bilinear2d_backward.default(upstream, list(upstream.shape[2:]), size, True)
    return gradient.to(dtype).contiguous(memory_format=form)
