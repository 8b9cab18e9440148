"""Sums of the consistency losses of UG-MCL: student against teacher, and segmentation against distance map.

The losses follow Zhang et al., arXiv 2112.02508, equations 4 and 6; the conversion of a distance map to a soft mask is
that of DTC, Luo et al. 2021.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from uml_kernels.check import check_logits
from uml_kernels.cpu import consistency as cpu
from uml_kernels.layout import as_pixels, result_dtype
from uml_kernels.operation import Operation


class ConsistencySums(NamedTuple):
    """Sums over the pixels of each sample, each (B,), float32 (float64 for float64 logits on a CPU).

    With q = softmax of the logits, teacher probability q', student and teacher distance z and z', gate M in {0, 1} and
    soft mask t = sigmoid(-slope z):

    Attributes:
        segmentation: sum of M times the mean over the classes of (q - q')^2.
        distance: sum of M times the mean over the distance maps of (z - z')^2.
        cross: sum of the mean over the distance maps of (t - q)^2, where the maps belong to the last classes.
        gated_cross: the same times M.
    """

    segmentation: Tensor
    distance: Tensor
    cross: Tensor
    gated_cross: Tensor


def consistency_sums(
    logits: Tensor,
    distance: Tensor,
    teacher_probability: Tensor,
    teacher_distance: Tensor,
    mask: Tensor,
    slope: float,
) -> ConsistencySums:
    """Compute the sums of the consistency losses in one read; differentiable with respect to logits and distance.

    Where the mask is false, the gated sums and their gradients are exactly 0, whatever the values there; `cross` counts
    every pixel. Sums are added in a fixed order, so two runs are bitwise equal.

    Args:
        logits: (B, C, *S), 2 to 16 classes, any floating-point dtype, any strides.
        distance: (B, D, *S), signed distances, negative inside, of all classes (D = C) or of all but the first
            (D = C - 1); any floating-point dtype, any strides.
        teacher_probability: (B, C, *S), floating-point.
        teacher_distance: (B, D, *S), floating-point.
        mask: (B, *S), bool.
        slope: slope of the soft mask, such as 1500; finite.

    Raises:
        ValueError: shape, dtype or device of an argument is wrong.
    """
    _check(logits, distance, teacher_probability, teacher_distance, mask)
    columns = _consistency_sums(
        as_pixels(logits),
        as_pixels(distance),
        as_pixels(teacher_probability.detach()),
        as_pixels(teacher_distance.detach()),
        mask.reshape(len(mask), -1).contiguous(),
        float(slope),
    )
    return ConsistencySums(*columns.unbind(1))


def _check(logits: Tensor, distance: Tensor, probability: Tensor, teacher_distance: Tensor, mask: Tensor) -> None:
    check_logits(logits)
    batch, classes, *sides = logits.shape
    maps = distance.shape[1] if distance.dim() > 1 else 0
    if maps not in (classes - 1, classes) or tuple(distance.shape) != (batch, maps, *sides):
        raise ValueError(
            f"distance has shape {tuple(distance.shape)}; logits {tuple(logits.shape)} need "
            f"{(batch, classes - 1, *sides)} or {(batch, classes, *sides)}"
        )
    others = (
        ("teacher_probability", probability, logits.shape),
        ("teacher_distance", teacher_distance, distance.shape),
        ("mask", mask, (batch, *sides)),
    )
    for name, each, shape in others:
        if tuple(each.shape) != tuple(shape):
            raise ValueError(f"{name} has shape {tuple(each.shape)}; it needs {tuple(shape)}")
    for name, each in (("distance", distance), *((name, each) for name, each, _ in others[:2])):
        if not each.is_floating_point():
            raise ValueError(f"{name} has dtype {each.dtype}; it must be floating-point")
    if mask.dtype != torch.bool:
        raise ValueError(f"mask has dtype {mask.dtype}; it must be bool")
    for name, each in (("distance", distance), *((name, each) for name, each, _ in others)):
        if each.device != logits.device:
            raise ValueError(f"{name} is on {each.device} and the logits on {logits.device}: move it there")


def _shapes(logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty((logits.shape[0], 4), dtype=result_dtype(logits))


def _backward_shapes(upstream: Tensor, logits: Tensor, distance: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(logits), torch.empty_like(distance)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.slope = inputs[5]


def _gradient(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    for_logits, for_distance = _consistency_sums_backward(upstream, *ctx.saved_tensors, ctx.slope)
    return for_logits, for_distance, None, None, None, None


_ARGUMENTS = (
    "Tensor logits, Tensor distance, Tensor teacher_probability, Tensor teacher_distance, Tensor mask, float slope"
)
_consistency_sums_backward = Operation(
    f"consistency_sums_backward(Tensor upstream, {_ARGUMENTS}) -> (Tensor, Tensor)",
    cpu=cpu.consistency_sums_backward,
    gpu="consistency.consistency_sums_backward",
    shapes=_backward_shapes,
)
_consistency_sums = Operation(
    f"consistency_sums({_ARGUMENTS}) -> Tensor",
    cpu=cpu.consistency_sums,
    gpu="consistency.consistency_sums",
    shapes=_shapes,
).differentiable(_save, _gradient)
