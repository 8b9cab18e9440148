"""The CPU twin of combining sums into a loss and its terms, with its gradient in closed form."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

COUNT, CROSS_ENTROPY, KL, VACUITY = range(4)


class _Map(NamedTuple):
    """The sums of one map, and where its Dice sums begin."""

    columns: Tensor  # (B, K)
    evidential: bool
    overlaps: int

    @property
    def classes(self) -> int:
        return (self.columns.shape[1] - self.overlaps) // 3


def _maps(evidential: Tensor | None, levels: Tensor | None) -> Iterator[_Map]:
    for sums, overlaps in ((evidential, 4), (levels, 2)):
        if sums is not None:
            yield from (_Map(columns, overlaps == 4, overlaps) for columns in sums.unbind())


class _Dice(NamedTuple):
    """Of one map: numerators and denominators of D (R, C), R = B or 1, and what each row weighs in the mean (R,)."""

    numerator: Tensor
    denominator: Tensor
    share: Tensor


def _dice(one: _Map, weight: Tensor, divisor: Tensor | None, per_sample: bool, smooth: float) -> _Dice:
    sums = one.columns[:, one.overlaps :].unflatten(1, (3, one.classes))
    if per_sample:
        counted = weight * (one.columns[:, COUNT] > 0)
        share = counted / (_positive(counted.sum()) if divisor is None else divisor.to(counted.dtype))
    else:
        sums, share = (sums * weight.view(-1, 1, 1)).sum(0, keepdim=True), weight.new_ones(1)
    intersection, predicted, target = sums.unbind(1)
    return _Dice(2 * intersection + smooth, predicted + target + smooth, share)


def _positive(count: Tensor) -> Tensor:
    """What a mean divides by: 1 where nothing is counted, so that the mean is 0."""
    return torch.where(count > 0, count, 1.0)


def _divisor(one: _Map, weight: Tensor, divisor: Tensor | None) -> Tensor:
    if divisor is not None:
        return divisor.to(weight.dtype)
    return _positive((weight * one.columns[:, COUNT]).sum())


def _weight(evidential: Tensor | None, levels: Tensor | None, weight: Tensor | None) -> Tensor:
    sums = evidential if evidential is not None else levels
    assert sums is not None
    return sums.new_ones(sums.shape[1]) if weight is None else weight.to(sums.dtype)


def combined_loss(
    kl_weight: Tensor,
    evidential: Tensor | None,
    levels: Tensor | None,
    weight: Tensor | None,
    divisor: Tensor | None,
    dice_divisor: Tensor | None,
    term_weights: Sequence[float],
    negative_log: bool,
    dice_per_sample: bool,
    smooth: float,
) -> tuple[Tensor, Tensor]:
    """See `uml_kernels.combined`: the loss, and the terms (maps, 4)."""
    weight = _weight(evidential, levels, weight)
    terms = []
    for one in _maps(evidential, levels):
        inverse = 1 / _divisor(one, weight, divisor)
        sums = (one.columns[:, :4] * weight.unsqueeze(1)).sum(0) * inverse
        zero = torch.zeros_like(sums[0])
        dice = zero
        if one.classes:
            parts = _dice(one, weight, dice_divisor, dice_per_sample, smooth)
            overlap = parts.numerator / parts.denominator
            each = -overlap.log() if negative_log else 1 - overlap
            dice = (each.mean(1) * parts.share).sum()
        kl, vacuity = (sums[KL], sums[VACUITY]) if one.evidential else (zero, zero)
        terms.append(torch.stack([sums[CROSS_ENTROPY], kl, vacuity, dice]))
    table = torch.stack(terms)
    of_cross_entropy, of_kl, of_dice = table.new_tensor(term_weights).reshape(-1, 3).unbind(1)
    loss = of_cross_entropy * table[:, 0] + of_kl * kl_weight * table[:, 1] + of_dice * table[:, 3]
    return loss.sum(), table


def combined_loss_backward(
    kl_weight: Tensor,
    for_loss: Tensor | None,
    for_terms: Tensor | None,
    evidential: Tensor | None,
    levels: Tensor | None,
    weight: Tensor | None,
    divisor: Tensor | None,
    dice_divisor: Tensor | None,
    term_weights: Sequence[float],
    negative_log: bool,
    dice_per_sample: bool,
    smooth: float,
) -> tuple[Tensor, Tensor]:
    """The gradients of the sums; empty where there are none."""
    weight = _weight(evidential, levels, weight)
    gradients = []
    for number, one in enumerate(_maps(evidential, levels)):
        asked = one.columns.new_zeros(4) if for_terms is None else for_terms[number].clone()
        if for_loss is not None:
            of_cross_entropy, of_kl, of_dice = term_weights[3 * number : 3 * number + 3]
            asked[0] += for_loss * of_cross_entropy
            asked[1] += for_loss * of_kl * kl_weight
            asked[3] += for_loss * of_dice
        gradient = torch.zeros_like(one.columns, memory_format=torch.contiguous_format)
        share = weight / _divisor(one, weight, divisor)
        gradient[:, CROSS_ENTROPY] = asked[0] * share
        if one.evidential:
            gradient[:, KL] = asked[1] * share
        if one.classes:
            parts = _dice(one, weight, dice_divisor, dice_per_sample, smooth)
            inverse = 1 / parts.denominator
            if negative_log:
                for_numerator, for_denominator = -1 / parts.numerator, inverse
            else:
                for_numerator, for_denominator = -inverse, parts.numerator * inverse * inverse
            # Of one D of all samples, every sample's sums count with its weight; of a D per sample, with their own row
            rows = (asked[3] * (parts.share if dice_per_sample else weight) / one.classes).unsqueeze(1)
            both = torch.stack([2 * for_numerator, for_denominator], 1) * rows.unsqueeze(2)
            gradient[:, one.overlaps : one.overlaps + 2 * one.classes] = both.flatten(1)
        gradients.append(gradient)
    found = []
    for sums in (evidential, levels):
        count = 0 if sums is None else len(sums)
        found.append(torch.stack(gradients[:count]) if count else kl_weight.new_empty(0, dtype=weight.dtype))
        del gradients[:count]
    return found[0], found[1]
