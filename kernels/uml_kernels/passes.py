"""Mean probability, entropy and mask of stochastic passes, in memory that does not grow with the number of passes."""

from typing import Any

import torch
from torch import Tensor

from uml_kernels.check import as_scalar, check_logits
from uml_kernels.cpu import passes as cpu
from uml_kernels.layout import as_pixels, result_dtype
from uml_kernels.operation import Operation


def add_probability(total: Tensor, logits: Tensor) -> Tensor:
    """Add the softmax of one pass's logits to the running total, in place; one read of the logits, no gradient.

    Args:
        total: (B, C, *S), float32 (float64 for float64 logits on a CPU), zeros before the first pass. Its pixels need a
            common stride, as in every tensor that torch.zeros or torch.zeros_like of maps allocates.
        logits: (B, C, *S), 2 to 16 classes, any floating-point dtype, any strides. A NaN logit makes its pixel NaN.

    Returns:
        The total.

    Raises:
        ValueError: shape, dtype or device of an argument is wrong, or the total requires a gradient.
    """
    check_logits(logits)
    if total.shape != logits.shape:
        raise ValueError(f"total has shape {tuple(total.shape)}; it needs that of the logits, {tuple(logits.shape)}")
    if total.dtype != result_dtype(logits):
        raise ValueError(f"total has dtype {total.dtype}; logits of {logits.dtype} need {result_dtype(logits)}")
    if total.device != logits.device:
        raise ValueError(f"total is on {total.device} and the logits on {logits.device}: move it there")
    if total.requires_grad:
        raise ValueError("total requires a gradient, which add_probability does not compute: detach it")
    try:
        pixels = total.view(*total.shape[:2], -1) if total.dim() > 2 else total.unsqueeze(2)
    except RuntimeError:
        raise ValueError(
            f"total has strides {total.stride()}, whose pixels have no common stride: allocate it with torch.zeros"
        ) from None
    _add_probability(pixels, as_pixels(logits.detach()))
    return total


def passes_entropy(total: Tensor, passes: int, limit: float | Tensor) -> tuple[Tensor, Tensor]:
    """Compute the normalised entropy of the mean probability p = total / passes, and where it is below a limit.

    The entropy is -sum of p ln p over the classes, divided by ln C. The term of a class with p = 0 is exactly 0, its
    limit; no constant is added to p. Values are within 1e-6, and for two classes exactly 1 where both have p = 0.5.

    Args:
        total: (B, C, *S), sum of the probabilities of all passes; 2 to 16 classes, any strides.
        passes: number of passes, at least 1.
        limit: number or 0-dimensional tensor, such as 0.75 to 1.

    Returns:
        The entropy (B, *S) in [0, 1], float32 (float64 for a float64 total on a CPU), NaN where a probability is NaN;
        and a bool mask (B, *S), true where the entropy is below the limit (not where it equals it or is NaN). Neither
        has a gradient.

    Raises:
        ValueError: the total is not floating-point, has too few or too many classes, or `passes` is below 1; or the
            limit has dimensions.
    """
    check_logits(total)
    if passes < 1:
        raise ValueError(f"passes is {passes}; it must be at least 1")
    limit = as_scalar("limit", limit, total)
    entropy, mask = _passes_entropy(as_pixels(total.detach()), limit, 1 / passes)
    shape = (total.shape[0], *total.shape[2:])
    return entropy.view(shape), mask.view(shape)


def _shapes(total: Tensor, limit: Tensor, share: float) -> tuple[Tensor, Tensor]:
    entropy = total.new_empty((total.shape[0], total.shape[2]), dtype=result_dtype(total))
    return entropy, torch.empty_like(entropy, dtype=torch.bool)


def _nothing(*_: Any) -> None:
    pass


_add_probability = Operation(
    "add_probability(Tensor(a!) total, Tensor logits) -> ()",
    cpu=cpu.add_probability,
    gpu="passes.add_probability",
    shapes=_nothing,
)
_passes_entropy = Operation(
    "passes_entropy(Tensor total, Tensor limit, float share) -> (Tensor, Tensor)",
    cpu=cpu.passes_entropy,
    gpu="passes.passes_entropy",
    shapes=_shapes,
)
