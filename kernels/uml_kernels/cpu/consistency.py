"""CPU implementation of the consistency sums with closed-form gradients, in slices that fit in the cache."""

from collections.abc import Iterator

import torch
from torch import Tensor

from uml_kernels.layout import result_dtype

SLICE = 1 << 14
"""Pixels of a slice: its planes stay in the L2 cache, and torch does not start threads for a plane."""


def _slices(logits: Tensor, *others: Tensor) -> Iterator[tuple[tuple[int, slice], list[Tensor]]]:
    """Yield sample and range of pixels of each slice, and its part of each tensor in the dtype of the result."""
    dtype, pixels = result_dtype(logits), logits.shape[2]
    for sample in range(len(logits)):
        for start in range(0, pixels, SLICE):
            at = slice(start, min(start + SLICE, pixels))
            yield (sample, at), [each[sample, ..., at].to(dtype) for each in (logits, *others)]


def consistency_sums(
    logits: Tensor,
    distance: Tensor,
    teacher_probability: Tensor,
    teacher_distance: Tensor,
    mask: Tensor,
    slope: float,
) -> Tensor:
    """Return the sums (B, 4) in the order of `ConsistencySums`."""
    sums = logits.new_zeros((len(logits), 4), dtype=result_dtype(logits))
    classes, maps = logits.shape[1], distance.shape[1]
    tensors = (logits, distance, teacher_probability, teacher_distance, mask)
    for (sample, _), (scores, z, teacher, teacher_z, gate) in _slices(*tensors):
        q = scores.softmax(0)
        cross = z.mul(-slope).sigmoid_().sub_(q[classes - maps :]).square_().sum(0).div_(maps)
        segmentation = q.sub_(teacher).square_().sum(0).div_(classes)
        between_maps = z.sub(teacher_z).square_().sum(0).div_(maps)
        excluded = gate == 0
        gated = [each.masked_fill(excluded, 0).sum() for each in (segmentation, between_maps, cross)]
        sums[sample] += torch.stack((gated[0], gated[1], cross.sum(), gated[2]))
    return sums


def consistency_sums_backward(
    upstream: Tensor,
    logits: Tensor,
    distance: Tensor,
    teacher_probability: Tensor,
    teacher_distance: Tensor,
    mask: Tensor,
    slope: float,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of logits and distance in their dtypes and strides."""
    for_logits, for_distance = torch.empty_like(logits), torch.empty_like(distance)
    classes, maps = logits.shape[1], distance.shape[1]
    tensors = (logits, distance, teacher_probability, teacher_distance, mask)
    for (sample, at), (scores, z, teacher, teacher_z, gate) in _slices(*tensors):
        for_segmentation, for_maps, for_cross, for_gated = upstream[sample].to(scores.dtype)
        q = scores.softmax(0)
        excluded = gate == 0
        soft = z.mul(-slope).sigmoid_()
        difference = soft - q[classes - maps :]
        difference *= torch.add(for_cross, gate * for_gated).mul_(2 / maps)
        for_q = (q - teacher).masked_fill_(excluded, 0).mul_(for_segmentation * (2 / classes))
        for_q[classes - maps :] -= difference
        for_q -= (for_q * q).sum(0)
        for_logits[sample, :, at] = for_q.mul_(q)
        of_soft = difference.mul_(soft.mul_(1 - soft)).mul_(-slope)
        of_maps = z - teacher_z
        for_distance[sample, :, at] = of_maps.masked_fill_(excluded, 0).mul_(for_maps * (2 / maps)).add_(of_soft)
    return for_logits, for_distance
