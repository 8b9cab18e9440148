"""Launchers of the two kernels that combine sums into a loss."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .combined_kernels import backward_kernel, forward_kernel
from .launch import launch

MOST_ROWS = 64
"""Maximum number of samples that the program processes at a time."""


def _constants(
    evidential: Tensor | None, levels: Tensor | None, negative_log: bool, dice_per_sample: bool
) -> tuple[int, dict[str, Any]]:
    """Return the number of samples and the compile-time constants of the kernels."""
    maps, batch, columns = (0, 0, 4) if evidential is None else evidential.shape
    count, levels_batch, level_columns = (0, 0, 2) if levels is None else levels.shape
    classes, batch = max((columns - 4) // 3, (level_columns - 2) // 3), max(batch, levels_batch)
    rows = min(MOST_ROWS, 1 << max(batch - 1, 0).bit_length())
    constants = {
        "M": maps, "L": count, "C": classes, "OVERLAPS": columns > 4,
        "LANES": 1 << max(classes - 1, 0).bit_length(), "ROWS": rows, "ITERATIONS": -(-batch // rows),
        "PER_SAMPLE": dice_per_sample, "NEGATIVE_LOG": negative_log,
    }  # fmt: skip
    return batch, constants


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
    evidential, levels, weight = _contiguous(evidential, levels, weight)
    batch, constants = _constants(evidential, levels, negative_log, dice_per_sample)
    like = evidential if evidential is not None else levels
    assert like is not None
    loss, terms = like.new_empty(()), like.new_empty((len(term_weights) // 3, 4))
    launch(
        forward_kernel, 1, kl_weight, evidential, levels, weight, divisor, dice_divisor, loss, terms, batch,
        tuple(term_weights), smooth, **constants, warps=1,
    )  # fmt: skip
    return loss, terms


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
    evidential, levels, weight, for_terms = _contiguous(evidential, levels, weight, for_terms)
    batch, constants = _constants(evidential, levels, negative_log, dice_per_sample)
    gradients = [None if sums is None else torch.empty_like(sums) for sums in (evidential, levels)]
    launch(
        backward_kernel, 1, kl_weight, for_loss, for_terms, evidential, levels, weight, divisor, dice_divisor,
        *gradients, batch, tuple(term_weights), smooth, **constants, warps=1,
    )  # fmt: skip
    one, two = (kl_weight.new_empty(0, dtype=torch.float32) if each is None else each for each in gradients)
    return one, two


def _contiguous(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if each is None else each.contiguous() for each in tensors)
