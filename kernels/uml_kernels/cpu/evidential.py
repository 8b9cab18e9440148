"""The CPU twin of the evidential objective: slice by slice that a processor's cache holds, or compiled as a whole."""

import torch
from torch import Tensor

from uml_kernels.layout import at_least_float32, result_dtype, strided_as

from . import evidential_core as core
from .compiled import compiled, is_compiled
from .evidential_core import Pixels, Setting

SLICE = 1 << 16
"""Pixels of a slice: enough work for some threads, few enough that a dozen planes stay in the second cache."""


def _setting(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    class_weight: Tensor | None,
    kind: str,
    dice: str,
    ignore: int,
) -> Setting:
    whole = weight is None and class_weight is None
    if whole and not target.is_floating_point() and target.numel():
        lowest, highest = target.aminmax()
        whole = 0 <= lowest.item() and highest.item() < logits.shape[1] and not lowest <= ignore <= highest
    return Setting(kind, dice, ignore, whole)


def _all(logits: Tensor, target: Tensor, weight: Tensor | None, class_weight: Tensor | None) -> Pixels:
    shares = list(target.unbind(1)) if target.is_floating_point() else target
    return Pixels(list(logits.unbind(1)), shares, weight, class_weight)


def _slices(pixels: Pixels) -> list[tuple[tuple[slice, slice], Pixels]]:
    """Samples and range, and planes (samples, P), of each slice of planes (B, P): small samples go together."""
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
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    class_weight: Tensor | None,
    kind: str,
    dice: str,
    ignore_index: int,
) -> Tensor:
    """See `uml_kernels.evidential`."""
    setting = _setting(logits, target, weight, class_weight, kind, dice, ignore_index)
    pixels = _all(logits, target, weight, class_weight)
    if is_compiled():
        return compiled(core.sums)(pixels, setting)
    classes = logits.shape[1]
    width = 4 if dice == "none" else 4 + 3 * classes
    total = logits.new_zeros((len(logits), width), dtype=result_dtype(logits))
    for (samples, _), part in _slices(pixels):
        total[samples] += core.sums(part, setting)
    return total


def evidential_sums_backward(
    upstream: Tensor,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    class_weight: Tensor | None,
    kind: str,
    dice: str,
    ignore_index: int,
) -> Tensor:
    """The gradient of `evidential_sums`."""
    setting = _setting(logits, target, weight, class_weight, kind, dice, ignore_index)
    pixels = _all(logits, target, weight, class_weight)
    if is_compiled():
        return strided_as(logits, compiled(core.sums_gradient_whole)(upstream, pixels, setting))
    gradient = torch.empty_like(logits)
    for at, part in _slices(pixels):
        _fill(gradient, at, core.sums_gradient(upstream[at[0]], part, setting))
    return gradient


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
    """See `uml_kernels.evidential`."""
    setting = _setting(logits, target, weight, class_weight, kind, "none", ignore_index)
    pixels = _all(logits, target, weight, class_weight)
    loss = torch.empty_like(at_least_float32(logits[:, 0]), memory_format=torch.contiguous_format)
    vacuity = torch.empty_like(loss) if with_vacuity else loss.new_empty(0)
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
    """The gradient of `evidential_map`."""
    setting = _setting(logits, target, weight, class_weight, kind, "none", ignore_index)
    gradient = torch.empty_like(logits)
    for at, part in _slices(_all(logits, target, weight, class_weight)):
        _fill(gradient, at, core.loss_gradient(upstream[at], kl_weight, part, setting))
    return gradient


def evidential_total(
    logits: Tensor,
    target: Tensor,
    kl_weight: Tensor,
    scale: Tensor,
    weight: Tensor | None,
    class_weight: Tensor | None,
    kind: str,
    ignore_index: int,
    with_vacuity: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `uml_kernels.evidential`."""
    arguments = (logits, target, kl_weight, weight, class_weight, kind, ignore_index)
    loss, vacuity = evidential_map(*arguments, with_vacuity)
    gradient = evidential_map_backward(scale.expand_as(loss), *arguments)
    return scale * loss.sum(), gradient, vacuity


def _fill(gradient: Tensor, at: tuple[slice, slice], planes: list[Tensor]) -> None:
    for c, plane in enumerate(planes):
        gradient[:, c][at] = plane
