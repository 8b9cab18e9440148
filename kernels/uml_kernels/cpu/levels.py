"""CPU implementation of the level sums: one sample and level at a time, so that a map stays in the cache."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from uml_kernels.layout import empty_like_maps, result_dtype


class _Masks(NamedTuple):
    """Masks of one sample's P pixels; products with floating-point masks are several times faster than selections.

    Attributes:
        own: (C, P), one-hot target; 0 at ignored pixels.
        counted: (P,), 1 at pixels that are not ignored.
        number: (1, P), class index; 0 where the target is not a class.
        ignored: (P,), the ignored pixels, or None if there are none.
        unknown: (P,), the other pixels whose target is not a class, or None if there are none.
    """

    own: Tensor
    counted: Tensor
    number: Tensor
    ignored: Tensor | None
    unknown: Tensor | None


def _masks(target: Tensor, classes: int, ignore_index: int, dtype: torch.dtype) -> _Masks:
    target = target.reshape(-1)
    ignored = target == ignore_index
    unknown = ~ignored & ((target < 0) | (target >= classes))
    own = (target == torch.arange(classes, dtype=target.dtype).unsqueeze(1)) & ~ignored
    number = target.masked_fill(ignored | unknown, 0).long().unsqueeze(0)
    return _Masks(
        own.to(dtype),
        (~ignored).to(dtype),
        number,
        ignored if ignored.any() else None,
        unknown if unknown.any() else None,
    )


def _pixels(level: Tensor, target: Tensor, size: list[int], masks: _Masks) -> Tensor:
    """Interpolate one sample's logits (1, C, h, w) to the target's pixels (1, H, W), as (C, P); 0 at ignored pixels.

    For two classes it returns only their difference (1, P), on which the softmax depends.
    """
    level = level.to(masks.own.dtype)
    level = level[:, 1:] - level[:, :1] if level.shape[1] == 2 else level.contiguous()
    if level.shape[2:] != target.shape[1:]:
        level = torch.ops.aten.upsample_bilinear2d(level, size, True)
        level = level[:, :, : target.shape[1], : target.shape[2]]
    level = level.reshape(level.shape[1], -1)
    return level if masks.ignored is None else level.masked_fill(masks.ignored, 0)


def _sum(logits: Tensor, masks: _Masks, sums: Tensor) -> None:
    """Write the 2 + 3 C sums of the logits that `_pixels` returned to `sums`."""
    classes = len(masks.own)
    if classes == 2:
        wrong = logits[0] * (masks.own[0] - masks.own[1])  # logit of the other class minus that of the target's
        losses = functional.logsigmoid(wrong.neg_()).neg_()
        q = torch.cat([-logits, logits]).sigmoid_()
    else:
        logits = logits - logits.amax(0)
        label = logits.gather(0, masks.number).squeeze(0)  # not a product with the mask: 0 times -inf is NaN
        powers = logits.exp_()
        total = powers.sum(0)
        q = powers.div_(total)
        losses = total.log_().sub_(label)
    sums[0] = masks.counted.sum()
    sums[1] = (losses * masks.counted).sum()
    torch.sum(q * masks.own, 1, out=sums[2 : 2 + classes])
    torch.sum(q * masks.counted, 1, out=sums[2 + classes : 2 + 2 * classes])
    torch.sum(masks.own, 1, out=sums[2 + 2 * classes :])


def level_sums(
    first: Tensor,
    second: Tensor | None,
    third: Tensor | None,
    fourth: Tensor | None,
    target: Tensor,
    height: int,
    width: int,
    ignore_index: int,
) -> Tensor:
    """Return the sums of all levels; see `uml_kernels.levels`."""
    levels = [level for level in (first, second, third, fourth) if level is not None]
    batch, classes = first.shape[:2]
    dtype = result_dtype(first)
    result = first.new_empty((len(levels), batch, 2 + 3 * classes), dtype=dtype)
    for sample in range(batch):
        own_target = target[sample : sample + 1]
        masks = _masks(own_target, classes, ignore_index, dtype)
        if masks.unknown is not None:
            result[:, sample] = torch.nan
            continue
        for level, sums in zip(levels, result[:, sample], strict=True):
            _sum(_pixels(level[sample : sample + 1], own_target, [height, width], masks), masks, sums)
    return result


def level_sums_backward(
    upstream: Tensor,
    first: Tensor,
    second: Tensor | None,
    third: Tensor | None,
    fourth: Tensor | None,
    target: Tensor,
    height: int,
    width: int,
    ignore_index: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of `level_sums`; empty tensors for absent levels."""
    levels = (first, second, third, fourth)
    gradients = [first.new_empty(0) if level is None else empty_like_maps(level) for level in levels]
    batch, classes = first.shape[:2]
    dtype = result_dtype(first)
    for sample in range(batch):
        own_target = target[sample : sample + 1]
        masks = _masks(own_target, classes, ignore_index, dtype)
        row = -1
        for level, gradient in zip(levels, gradients, strict=True):
            if level is None:
                continue
            row += 1
            level_upstream = upstream[row, sample].to(dtype)
            logits = _pixels(level[sample : sample + 1], own_target, [height, width], masks)
            slopes = _pixel_gradients(logits, level_upstream, masks).reshape(1, len(logits), *own_target.shape[1:])
            slopes = _to_points(slopes, level[sample : sample + 1], [height, width])
            gradient[sample : sample + 1] = torch.cat([-slopes, slopes], 1) if classes == 2 else slopes
    one, two, three, four = gradients
    return one, two, three, four


def _pixel_gradients(logits: Tensor, upstream: Tensor, masks: _Masks) -> Tensor:
    """Return the gradient of the logits that `_pixels` returned.

    The gradient of the softmax is q_c (g_c - sum of q_k g_k) for the gradient g with respect to q.
    """
    classes = len(masks.own)
    for_cross_entropy = upstream[1]
    for_intersection, for_predicted = upstream[2 : 2 + 2 * classes].reshape(2, classes, 1).unbind()
    if classes == 2:
        q = logits.sigmoid()
        for_q = torch.addcmul(for_predicted[1] - for_predicted[0], masks.own[1], for_intersection[1])
        for_q = for_q.addcmul_(masks.own[0], -for_intersection[0])
        slopes = torch.addcmul(for_cross_entropy, for_q, logits.neg().sigmoid_()).mul_(q)
        slopes.sub_(masks.own[1] * for_cross_entropy)
    else:
        q = logits.softmax(0)
        for_q = torch.addcmul(for_predicted, masks.own, for_intersection)
        mean = (q * for_q).sum(0)
        slopes = for_q.sub_(mean.sub_(for_cross_entropy)).mul_(q)
        slopes.sub_(masks.own * for_cross_entropy)
    if masks.ignored is not None:
        slopes.masked_fill_(masks.ignored, 0)
    if masks.unknown is not None:
        slopes.masked_fill_(masks.unknown, torch.nan)
    return slopes


def _to_points(slopes: Tensor, level: Tensor, size: list[int]) -> Tensor:
    """Convert the gradient (1, planes, H, W) of the pixels to that of the level's points, (1, planes, h, w)."""
    if level.shape[2:] == slopes.shape[2:]:
        return slopes
    below, beside = size[0] - slopes.shape[2], size[1] - slopes.shape[3]
    if below or beside:
        slopes = functional.pad(slopes, (0, beside, 0, below))
    return torch.ops.aten.upsample_bilinear2d_backward(slopes, size, [*slopes.shape[:2], *level.shape[2:]], True)
