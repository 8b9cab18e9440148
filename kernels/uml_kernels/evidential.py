"""The evidential objective: expected cross-entropy, KL to the uniform Dirichlet, and what Dice overlaps need.

Forms that do not cancel are derived in kernels/README.md. Everything is formed in registers from the logits: one read
of them forward, one read and one write of the gradient backward.
"""

from typing import Any, Literal, NamedTuple, TypedDict, Unpack, overload

import torch
from torch import Tensor

from uml_kernels.check import check_logits, check_numbers, check_target, check_weights
from uml_kernels.cpu import evidential as twins
from uml_kernels.dice import DiceSums
from uml_kernels.layout import as_pixels, map_shape, result_dtype
from uml_kernels.operation import Operation
from uml_kernels.opinion import EvidenceKind

Reduction = Literal["none", "mean", "sum"]
DiceProbability = Literal["softmax", "expected", "none"]


class LossOptions(TypedDict, total=False):
    """What `evidential_loss` takes by name, for type checkers."""

    kind: EvidenceKind
    ignore_index: int
    dim: int
    weight: Tensor | None
    class_weight: Tensor | None
    reduction: Reduction


class EvidentialSums(NamedTuple):
    """Weighted sums over the pixels that count, each (B,), float32; sums of samples, devices and ranks add up.

    Attributes:
        count: of the weights.
        cross_entropy: expected cross-entropies.
        kl: KL divergences to the uniform Dirichlet.
        vacuity: vacuities, without gradient; over the count they give the mean.
        dice: of the probability that was asked for; None without.
    """

    count: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    cross_entropy: Tensor
    kl: Tensor
    vacuity: Tensor
    dice: DiceSums | None


def evidential_sums(
    logits: Tensor,
    target: Tensor,
    *,
    kind: EvidenceKind = "softplus",
    dice: DiceProbability = "softmax",
    ignore_index: int = 255,
    dim: int = 1,
    weight: Tensor | None = None,
    class_weight: Tensor | None = None,
) -> EvidentialSums:
    """What the evidential objective needs of each sample, with gradient: ratios are for the caller to form.

    So the sums can first be added over samples and ranks.

    Args:
        logits: (*lead, C, *S), 2 to 16 classes along `dim`, float32, bfloat16 or float16 (float64 on a CPU alone); the
            leading dimensions together are B.
        target: (*lead, *S) class numbers, uint8 or int64; or (*lead, C, *S) shares of the classes, floating. A number
            that is no class and not `ignore_index` makes its sample's sums NaN; UML_KERNELS_DEBUG=1 stops instead.
        kind: how evidence is formed of logits; "given" where they are evidence.
        dice: what overlaps with the target: softmax of the evidence (UML), alpha / S, or nothing.
        ignore_index: the class number of pixels that do not count, whatever their logits.
        dim: the class dimension.
        weight: (*lead, *S) of the pixels; those of weight 0 do not count. Without gradient.
        class_weight: (C,) of the classes in count, cross-entropy, KL and vacuity. Without gradient.

    Raises:
        ValueError: shapes, dtypes or a number of classes that do not fit, or an unknown kind.
    """
    pixels, target, weight = _prepare(logits, target, kind, dim, weight, class_weight, ignore_index)
    if dice not in ("softmax", "expected", "none"):
        raise ValueError(f"dice is {dice!r}; choose softmax, expected or none")
    count, cross_entropy, kl, vacuity, *overlaps = _sums(
        pixels, target, weight, class_weight, kind, dice, ignore_index
    ).split([1, 1, 1, 1, *([] if dice == "none" else [pixels.shape[1]] * 3)], 1)
    return EvidentialSums(
        count.squeeze(1).detach(),
        cross_entropy.squeeze(1),
        kl.squeeze(1),
        vacuity.squeeze(1).detach(),
        DiceSums(*overlaps) if overlaps else None,
    )


@overload
def evidential_loss(
    logits: Tensor,
    target: Tensor,
    kl_weight: float | Tensor,
    *,
    return_vacuity: Literal[False] = False,
    **options: Unpack[LossOptions],
) -> Tensor: ...
@overload
def evidential_loss(
    logits: Tensor,
    target: Tensor,
    kl_weight: float | Tensor,
    *,
    return_vacuity: Literal[True],
    **options: Unpack[LossOptions],
) -> tuple[Tensor, Tensor]: ...
def evidential_loss(
    logits: Tensor,
    target: Tensor,
    kl_weight: float | Tensor,
    *,
    kind: EvidenceKind = "softplus",
    ignore_index: int = 255,
    dim: int = 1,
    weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: Reduction = "mean",
    return_vacuity: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Expected cross-entropy + kl_weight * KL to the uniform Dirichlet (Sensoy et al. 2018, digamma form).

    With "mean" or "sum" the gradient is formed with the loss: one read and one write for both.

    Args:
        logits: as `evidential_sums`.
        target: likewise.
        kl_weight: a number or a scalar tensor on the logits' device, without gradient.
        kind: likewise.
        ignore_index: the class number of pixels whose loss and gradient are exactly 0.
        dim: the class dimension.
        weight: likewise.
        class_weight: likewise.
        reduction: "none" gives (*lead, *S), "sum" and "mean" scalars; the mean divides by the sum of the weights of the
            pixels that count, and is 0 where there is none.
        return_vacuity: return the vacuities (*lead, *S), without gradient, beside the loss.

    Raises:
        ValueError: as `evidential_sums`, or an unknown reduction.
    """
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; choose none, mean or sum")
    pixels, target, weight = _prepare(logits, target, kind, dim, weight, class_weight, ignore_index)
    dtype = result_dtype(logits)
    if not isinstance(kl_weight, Tensor):
        kl_weight = torch.full((), kl_weight, dtype=dtype, device=logits.device)
    kl_weight = kl_weight.detach().to(logits.device, dtype)
    arguments = (weight, class_weight, kind, ignore_index, return_vacuity)
    if reduction == "none":
        loss, vacuity = _per_pixel(pixels, target, kl_weight, *arguments)
        loss = loss.reshape(map_shape(logits, dim))
    else:
        scale = torch.ones((), dtype=dtype, device=logits.device)
        if reduction == "mean":
            count = _count(target, weight, class_weight, ignore_index, pixels)
            scale = torch.where(count > 0, 1 / count, 0)
        if torch.is_grad_enabled() and logits.requires_grad:
            loss, _, vacuity = _total(pixels, target, kl_weight, scale, *arguments)
        else:
            loss, vacuity = _per_pixel(pixels, target, kl_weight, *arguments)
            loss = scale * loss.sum()
    return (loss, vacuity.reshape(map_shape(logits, dim))) if return_vacuity else loss


def _prepare(
    logits: Tensor,
    target: Tensor,
    kind: str,
    dim: int,
    weight: Tensor | None,
    class_weight: Tensor | None,
    ignore_index: int,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits (B, C, P); target (B, P), or (B, C, P) of shares; weight (B, P)."""
    check_logits(logits, dim, kind)
    if logits.is_cuda and logits.dtype == torch.float64:
        raise ValueError("float64 logits are for a CPU: the kernels compute in float32, pass logits.float()")
    check_target(logits, target, dim)
    check_numbers(target, logits.shape[dim], ignore_index)
    check_weights(logits, target, dim, weight, class_weight)
    pixels = as_pixels(logits, dim)
    shape = pixels.shape if target.is_floating_point() else (pixels.shape[0], pixels.shape[2])
    if weight is not None:
        weight = weight.detach().reshape(shape[0], shape[-1]).contiguous()
    return pixels, target.detach().reshape(shape).contiguous(), weight


def _count(
    target: Tensor, weight: Tensor | None, class_weight: Tensor | None, ignore_index: int, pixels: Tensor
) -> Tensor:
    """The sum of the weights of the pixels that count, a scalar."""
    dtype = result_dtype(pixels)
    if target.is_floating_point():
        weights = pixels.new_ones(pixels.shape[0], pixels.shape[2], dtype=dtype)
    else:
        counted = target != ignore_index
        weights = counted.to(dtype)
        if class_weight is not None:
            known = target.long().clamp(0, pixels.shape[1] - 1)
            weights = weights * class_weight.to(dtype)[known]
    return (weights if weight is None else weights * weight).sum()


def _sums_shape(logits: Tensor, dice: str) -> tuple[int, int]:
    return logits.shape[0], 4 if dice == "none" else 4 + 3 * logits.shape[1]


_sums_backward = Operation(
    "evidential_sums_backward(Tensor upstream, Tensor logits, Tensor target, Tensor? weight, Tensor? class_weight, "
    "str kind, str dice, int ignore_index) -> Tensor",
    cpu=twins.evidential_sums_backward,
    gpu="evidential.evidential_sums_backward",
    shapes=lambda upstream, logits, *_: torch.empty_like(logits),
)
_map_backward = Operation(
    "evidential_map_backward(Tensor upstream, Tensor logits, Tensor target, Tensor kl_weight, Tensor? weight, "
    "Tensor? class_weight, str kind, int ignore_index) -> Tensor",
    cpu=twins.evidential_map_backward,
    gpu="evidential.evidential_map_backward",
    shapes=lambda upstream, logits, *_: torch.empty_like(logits),
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Tensors go the way of tensors, so that their versions are checked; the rest are attributes."""
    ctx.save_for_backward(*(each for each in inputs if isinstance(each, Tensor)))
    ctx.inputs = [None if isinstance(each, Tensor) else each for each in inputs]
    ctx.tensors = [isinstance(each, Tensor) for each in inputs]


def _saved(ctx: Any) -> list[Any]:
    """The inputs again."""
    tensors = iter(ctx.saved_tensors)
    return [next(tensors) if tensor else other for tensor, other in zip(ctx.tensors, ctx.inputs, strict=True)]


def _of_logits(gradient: Tensor, ctx: Any) -> tuple[Tensor | None, ...]:
    return gradient, *[None] * (len(ctx.inputs) - 1)


_sums = Operation(
    "evidential_sums(Tensor logits, Tensor target, Tensor? weight, Tensor? class_weight, str kind, str dice, "
    "int ignore_index) -> Tensor",
    cpu=twins.evidential_sums,
    gpu="evidential.evidential_sums",
    shapes=lambda logits, target, weight, class_weight, kind, dice, ignore_index: logits.new_empty(
        _sums_shape(logits, dice), dtype=result_dtype(logits)
    ),
).differentiable(_save, lambda ctx, upstream: _of_logits(_sums_backward(upstream, *_saved(ctx)), ctx))


def _save_map(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    _save(ctx, inputs, output)


def _map_shapes(logits: Tensor, target: Tensor, kl_weight: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return _empty_map(logits, True), _empty_map(logits, others[-1])


def _empty_map(logits: Tensor, wanted: bool) -> Tensor:
    return logits.new_empty((logits.shape[0], logits.shape[2]) if wanted else (0,), dtype=result_dtype(logits))


_per_pixel = Operation(
    "evidential_map(Tensor logits, Tensor target, Tensor kl_weight, Tensor? weight, Tensor? class_weight, str kind, "
    "int ignore_index, bool with_vacuity) -> (Tensor, Tensor)",
    cpu=twins.evidential_map,
    gpu="evidential.evidential_map",
    shapes=_map_shapes,
).differentiable(_save_map, lambda ctx, upstream, _: _of_logits(_map_backward(upstream, *_saved(ctx)[:-1]), ctx))


def _total_shapes(logits: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return logits.new_empty((), dtype=result_dtype(logits)), torch.empty_like(logits), _empty_map(logits, others[-1])


def _save_total(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    _save(ctx, (*inputs, output[1]), output)
    ctx.spent = False


def _total_backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    """The gradient formed ahead, times the upstream one."""
    *inputs, gradient = _saved(ctx)
    return (gradient * upstream).to(gradient.dtype), *[None] * (len(inputs) - 1)


def _total_backward_in_place(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    """Likewise, in place, which costs nothing where the upstream one is 1; anew if an earlier backward took it."""
    *inputs, gradient = _saved(ctx)
    if ctx.spent:
        logits, target, kl_weight, scale, weight, class_weight, kind, ignore_index, _ = inputs
        each = (upstream * scale).expand(logits.shape[0], logits.shape[2])
        gradient = _map_backward(each, logits, target, kl_weight, weight, class_weight, kind, ignore_index)
    else:
        from uml_kernels.gpu.evidential import rescale

        ctx.spent = True
        rescale(gradient, upstream)
    return gradient, *[None] * (len(inputs) - 1)


_total = Operation(
    "evidential_total(Tensor logits, Tensor target, Tensor kl_weight, Tensor scale, Tensor? weight, "
    "Tensor? class_weight, str kind, int ignore_index, bool with_vacuity) -> (Tensor, Tensor, Tensor)",
    cpu=twins.evidential_total,
    gpu="evidential.evidential_total",
    shapes=_total_shapes,
).differentiable(_save_total, _total_backward, eager=_total_backward_in_place)
