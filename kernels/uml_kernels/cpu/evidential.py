"""CPU implementation of the evidential objective: in slices that fit in the cache, or compiled to one loop."""

import torch
from torch import Tensor

from uml_kernels.layout import result_dtype, strided_as

from . import evidential_core as core
from .compiled import compiled, is_compiled
from .evidential_core import Pixels, Setting

SLICE = 1 << 16
"""Pixels per slice: enough work for several threads, few enough that a dozen planes stay in the L2 cache."""


def _setting(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    class_weight: Tensor | None,
    kind: str,
    dice: str,
    ignore: int,
) -> Setting:
    unmasked = weight is None and class_weight is None
    if unmasked and not target.is_floating_point() and target.numel():
        lowest, highest = target.aminmax()
        unmasked = 0 <= lowest.item() and highest.item() < logits.shape[1] and not lowest <= ignore <= highest
    return Setting(kind, dice, ignore, unmasked)


def _all(logits: Tensor, target: Tensor, weight: Tensor | None, class_weight: Tensor | None) -> Pixels:
    shares = list(target.unbind(1)) if target.is_floating_point() else target
    return Pixels(list(logits.unbind(1)), shares, weight, class_weight)


def _slices(pixels: Pixels) -> list[tuple[tuple[slice, slice], Pixels]]:
    """Split planes (B, P) into slices; small samples share a slice.

    Returns:
        For each slice, its samples and pixel range, and its planes (samples, P).
    """
    batch, count = pixels.logits[0].shape
    together, found = max(1, SLICE // max(count, 1)), []
    for sample in range(0, batch, together):
        for start in range(0, count, SLICE):
            at = slice(sample, min(sample + together, batch)), slice(start, min(start + SLICE, count))
            target = pixels.target
            target = target[at] if isinstance(target, Tensor) else [share[at] for share in target]
            weight = None if pixels.weight is None else pixels.weight[at]
            found.append((at, Pixels([plane[at] for plane in pixels.logits], target, weight, pixels.class_weight)))
    return found


def evidential_sums(
    first: Tensor,
    second: Tensor | None,
    third: Tensor | None,
    fourth: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    class_weight: Tensor | None,
    kind: str,
    dice: str,
    ignore_index: int,
    with_vacuity: bool,
) -> tuple[Tensor, Tensor]:
    """Return the sums and the vacuities; see `uml_kernels.evidential`."""
    setting = _setting(first, target, weight, class_weight, kind, dice, ignore_index)
    maps = [each for each in (first, second, third, fourth) if each is not None]
    width = 4 if dice == "none" else 4 + 3 * first.shape[1]
    total = first.new_zeros((len(maps), len(first), width), dtype=result_dtype(first))
    vacuity = _empty_map(first, with_vacuity)
    for logits, sums in zip(maps, total, strict=True):
        pixels = _all(logits, target, weight, class_weight)
        if is_compiled() and not with_vacuity:
            sums.copy_(compiled(core.sums)(pixels, setting))
            continue
        for at, part in _slices(pixels):
            added, each = core.sums_and_vacuity(part, setting)
            sums[at[0]] += added
            if with_vacuity:
                vacuity[at] = each
    return total, vacuity


def evidential_sums_backward(
    upstream: Tensor,
    first: Tensor,
    second: Tensor | None,
    third: Tensor | None,
    fourth: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    class_weight: Tensor | None,
    kind: str,
    dice: str,
    ignore_index: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of `evidential_sums`; empty tensors for absent maps."""
    setting = _setting(first, target, weight, class_weight, kind, dice, ignore_index)
    gradients, number = [], 0
    for logits in (first, second, third, fourth):
        if logits is None:
            gradients.append(first.new_empty(0))
            continue
        pixels, map_upstream = _all(logits, target, weight, class_weight), upstream[number]
        number += 1
        if is_compiled():
            gradients.append(strided_as(logits, compiled(core.stacked_sums_gradient)(map_upstream, pixels, setting)))
            continue
        gradients.append(torch.empty_like(logits))
        for at, part in _slices(pixels):
            _fill(gradients[-1], at, core.sums_gradient(map_upstream[at[0]], part, setting))
    one, two, three, four = gradients
    return one, two, three, four


def evidential_map(
    logits: Tensor,
    target: Tensor,
    kl_weight: Tensor,
    weight: Tensor | None,
    class_weight: Tensor | None,
    kind: str,
    ignore_index: int,
    with_vacuity: bool,
) -> tuple[Tensor, Tensor]:
    """Return the loss of each pixel and the vacuities; see `uml_kernels.evidential`."""
    setting = _setting(logits, target, weight, class_weight, kind, "none", ignore_index)
    pixels = _all(logits, target, weight, class_weight)
    loss, vacuity = _empty_map(logits, True), _empty_map(logits, with_vacuity)
    for at, part in _slices(pixels):
        loss[at], each = core.loss(kl_weight, part, setting)
        if with_vacuity:
            vacuity[at] = each
    return loss, vacuity


def evidential_map_backward(
    upstream: Tensor,
    logits: Tensor,
    target: Tensor,
    kl_weight: Tensor,
    weight: Tensor | None,
    class_weight: Tensor | None,
    kind: str,
    ignore_index: int,
) -> Tensor:
    """Return the gradient of `evidential_map`."""
    setting = _setting(logits, target, weight, class_weight, kind, "none", ignore_index)
    gradient = torch.empty_like(logits)
    for at, part in _slices(_all(logits, target, weight, class_weight)):
        _fill(gradient, at, core.loss_gradient(upstream[at], kl_weight, part, setting))
    return gradient


def _empty_map(logits: Tensor, wanted: bool) -> Tensor:
    """Allocate a map (B, P), or an empty tensor."""
    return logits.new_empty((logits.shape[0], logits.shape[2]) if wanted else (0,), dtype=result_dtype(logits))


def _fill(gradient: Tensor, at: tuple[slice, slice], planes: list[Tensor]) -> None:
    for c, plane in enumerate(planes):
        gradient[:, c][at] = plane
