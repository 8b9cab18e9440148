"""Combines sums into a loss and its terms on the CPU, with the gradient in closed form; all maps at once."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

OF_MAPS, OF_LEVELS = 4, 2
"""The columns of evidential and of level sums at which their Dice sums begin."""


class _Setting(NamedTuple):
    """What all maps share; see `uml_kernels.combined`."""

    weight: Tensor | None  # (B,)
    divisor: Tensor | None
    dice_divisor: Tensor | None
    negative_log: bool
    dice_per_sample: bool
    smooth: float


class _Dice(NamedTuple):
    """Numerators and denominators of D (M, R, C), R = 1 or of each sample B, and what a row weighs (M, R) or 1."""

    numerator: Tensor
    denominator: Tensor
    share: Tensor | float


class _Sums:
    """The sums (M, B, K) of M maps of one kind, whose Dice sums begin at a column."""

    def __init__(self, columns: Tensor, first: int, setting: _Setting) -> None:
        self.columns, self.first, self.setting = columns, first, setting
        self.classes = (columns.shape[2] - first) // 3
        dtype = columns.dtype
        self.weight = None if setting.weight is None else setting.weight.to(dtype).unsqueeze(1)
        self.total = (columns if self.weight is None else columns * self.weight).sum(1)
        self.divisor = _positive(self.total[:, :1]) if setting.divisor is None else setting.divisor.to(dtype)

    def dice(self) -> _Dice:
        """Of all samples together, or of each."""
        setting = self.setting
        if setting.dice_per_sample:
            rows = self.columns
            share = (rows[:, :, 0] > 0).to(rows.dtype)
            share = share if self.weight is None else share * self.weight.squeeze(1)
            count = _positive(share.sum(1, keepdim=True)) if setting.dice_divisor is None else setting.dice_divisor
            share = share / count.to(rows.dtype)
        else:
            rows, share = self.total.unsqueeze(1), 1.0
        intersection, predicted, target = rows[:, :, self.first :].unflatten(2, (3, self.classes)).unbind(2)
        return _Dice(intersection * 2 + setting.smooth, predicted + target + setting.smooth, share)

    def terms(self) -> Tensor:
        """(M, 4): mean cross-entropy, KL and vacuity, and the Dice loss."""
        terms = self.columns.new_zeros(len(self.columns), 4)
        terms[:, : self.first - 1] = self.total[:, 1 : self.first] / self.divisor
        if self.classes:
            numerator, denominator, share = self.dice()
            overlap = numerator / denominator
            each = overlap.log().neg() if self.setting.negative_log else 1 - overlap
            terms[:, 3] = (each.mean(2) * share).sum(1)
        return terms

    def gradient(self, asked: Tensor) -> Tensor:
        """Of the sums, for an upstream one (M, 4) of the terms."""
        gradient = torch.zeros_like(self.columns, memory_format=torch.contiguous_format)
        means = 2 if self.first == OF_MAPS else 1  # cross-entropy, and of evidential sums KL
        gradient[:, :, 1 : 1 + means] = (asked[:, :means] / self.divisor).unsqueeze(1)
        if self.classes:
            numerator, denominator, share = self.dice()
            inverse = 1 / denominator
            if self.setting.negative_log:
                for_numerator, for_denominator = -1 / numerator, inverse
            else:
                for_numerator, for_denominator = -inverse, numerator * inverse * inverse
            rows = asked[:, 3:] * share / self.classes
            both = torch.cat([2 * for_numerator, for_denominator], 2) * rows.unsqueeze(2)
            gradient[:, :, self.first : self.first + 2 * self.classes] = both
        if self.weight is not None:
            # A share per sample holds the weight already
            weighed = slice(0, self.first if self.setting.dice_per_sample else None)
            gradient[:, :, weighed] *= self.weight
        return gradient


def _positive(count: Tensor) -> Tensor:
    """What a mean divides by: 1 where nothing is counted, so that the mean is 0."""
    return torch.where(count > 0, count, 1.0)


def _weights(term_weights: Sequence[float], kl_weight: Tensor, like: Tensor) -> Tensor:
    """(maps, 4): what each term weighs in the loss; the vacuity nothing."""
    given = [term_weights[i : i + 3] for i in range(0, len(term_weights), 3)]
    weights = like.new_tensor([(cross_entropy, kl, 0.0, dice) for cross_entropy, kl, dice in given])
    weights[:, 1] *= kl_weight
    return weights


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
    setting = _Setting(weight, divisor, dice_divisor, negative_log, dice_per_sample, smooth)
    given = ((evidential, OF_MAPS), (levels, OF_LEVELS))
    found = [_Sums(sums, first, setting).terms() for sums, first in given if sums is not None]
    terms = torch.cat(found)
    return (terms * _weights(term_weights, kl_weight, terms)).sum(), terms


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
    setting = _Setting(weight, divisor, dice_divisor, negative_log, dice_per_sample, smooth)
    asked = for_terms
    if for_loss is not None:
        like = evidential if evidential is not None else levels
        assert like is not None
        of_loss = for_loss * _weights(term_weights, kl_weight, like)
        asked = of_loss if asked is None else asked + of_loss
    assert asked is not None
    maps = 0 if evidential is None else len(evidential)
    one, two = (
        kl_weight.new_empty(0) if sums is None else _Sums(sums, first, setting).gradient(part)
        for sums, first, part in ((evidential, OF_MAPS, asked[:maps]), (levels, OF_LEVELS, asked[maps:]))
    )
    return one, two
