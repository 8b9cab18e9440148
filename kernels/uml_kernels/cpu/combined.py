"""CPU implementation of the combined loss with a closed-form gradient; it processes all maps at once."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

OF_MAPS, OF_LEVELS = 4, 2
"""First column of the Dice sums, for evidential sums and for level sums."""


class _Setting(NamedTuple):
    """Arguments common to all maps; see `uml_kernels.combined`."""

    weight: Tensor | None  # (B,)
    divisor: Tensor | None
    dice_divisor: Tensor | None
    negative_log: bool
    dice_per_sample: bool
    smooth: float


class _Dice(NamedTuple):
    """Numerators and denominators of D (M, R, C) and the weight of each row, (M, R) or 1; R is 1, or B per sample."""

    numerator: Tensor
    denominator: Tensor
    share: Tensor | float


class _Sums:
    """The sums (M, B, K) of M maps of one kind; their Dice sums begin at column `first`."""

    def __init__(self, columns: Tensor, first: int, setting: _Setting) -> None:
        self.columns, self.first, self.setting = columns, first, setting
        self.classes = (columns.shape[2] - first) // 3
        dtype = columns.dtype
        self.weight = None if setting.weight is None else setting.weight.to(dtype).unsqueeze(1)
        self.total = (columns if self.weight is None else columns * self.weight).sum(1)
        self.divisor = _positive(self.total[:, :1]) if setting.divisor is None else setting.divisor.to(dtype)

    def dice(self) -> _Dice:
        """Return D for all samples together, or for each sample."""
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
        """Return mean cross-entropy, KL and vacuity, and the Dice loss (M, 4)."""
        terms = self.columns.new_zeros(len(self.columns), 4)
        terms[:, : self.first - 1] = self.total[:, 1 : self.first] / self.divisor
        if self.classes:
            numerator, denominator, share = self.dice()
            overlap = numerator / denominator
            each = overlap.log().neg() if self.setting.negative_log else 1 - overlap
            terms[:, 3] = (each.mean(2) * share).sum(1)
        return terms

    def gradient(self, upstream: Tensor) -> Tensor:
        """Return the gradient of the sums for an upstream gradient (M, 4) of the terms."""
        gradient = torch.zeros_like(self.columns, memory_format=torch.contiguous_format)
        means = 2 if self.first == OF_MAPS else 1  # cross-entropy, and for evidential sums also KL
        gradient[:, :, 1 : 1 + means] = (upstream[:, :means] / self.divisor).unsqueeze(1)
        if self.classes:
            numerator, denominator, share = self.dice()
            inverse = 1 / denominator
            if self.setting.negative_log:
                for_numerator, for_denominator = -1 / numerator, inverse
            else:
                for_numerator, for_denominator = -inverse, numerator * inverse * inverse
            rows = upstream[:, 3:] * share / self.classes
            both = torch.cat([2 * for_numerator, for_denominator], 2) * rows.unsqueeze(2)
            gradient[:, :, self.first : self.first + 2 * self.classes] = both
        if self.weight is not None:
            # The per-sample share already includes the weight
            weighted = slice(0, self.first if self.setting.dice_per_sample else None)
            gradient[:, :, weighted] *= self.weight
        return gradient


def _positive(count: Tensor) -> Tensor:
    """Replace counts of 0 by 1, so that a mean of nothing is 0."""
    return torch.where(count > 0, count, 1.0)


def _weights(term_weights: Sequence[float], kl_weight: Tensor, like: Tensor) -> Tensor:
    """Return the weight of each term in the loss (maps, 4); that of the vacuity is 0."""
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
    """Return the loss and the terms (maps, 4); see `uml_kernels.combined`."""
    setting = _Setting(weight, divisor, dice_divisor, negative_log, dice_per_sample, smooth)
    given = ((evidential, OF_MAPS), (levels, OF_LEVELS))
    terms = torch.cat([_Sums(sums, first, setting).terms() for sums, first in given if sums is not None])
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
    """Return the gradients of the sums; an empty tensor for absent sums."""
    setting = _Setting(weight, divisor, dice_divisor, negative_log, dice_per_sample, smooth)
    upstream = for_terms
    if for_loss is not None:
        like = evidential if evidential is not None else levels
        assert like is not None
        from_loss = for_loss * _weights(term_weights, kl_weight, like)
        upstream = from_loss if upstream is None else upstream + from_loss
    assert upstream is not None
    maps = 0 if evidential is None else len(evidential)
    one, two = (
        kl_weight.new_empty(0) if sums is None else _Sums(sums, first, setting).gradient(part)
        for sums, first, part in ((evidential, OF_MAPS, upstream[:maps]), (levels, OF_LEVELS, upstream[maps:]))
    )
    return one, two
