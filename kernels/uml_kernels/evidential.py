"""The evidential objective: expected cross-entropy, KL to the uniform Dirichlet, and what Dice overlaps need.

Forms that do not cancel are derived in kernels/README.md. Everything is formed in registers from the logits: one read
of them forward, one read and one write of the gradient backward.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from uml_kernels.check import as_scalar, check_logits, check_numbers, check_target, check_weights
from uml_kernels.combined import COMBINE
from uml_kernels.cpu import evidential as cpu
from uml_kernels.dice import DiceSums
from uml_kernels.layout import as_pixels, map_shape, result_dtype
from uml_kernels.operation import Operation
from uml_kernels.opinion import EvidenceKind

MOST_MAPS = 4
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


@dataclass(frozen=True)
class EvidentialSums:
    """Weighted sums over the pixels that count, of each sample: sums of samples, devices and ranks add up.

    Attributes:
        columns: (B, 4 + 3 C), or (B, 4) without overlaps, float32 (float64 of float64): all sums in the order of the
            properties. (maps, B, ...) of several maps, and so are the properties (maps, B).
    """

    columns: Tensor

    @property
    def count(self) -> Tensor:
        """(B,), the sum of the weights."""
        return self.columns.select(-1, 0).detach()

    @property
    def cross_entropy(self) -> Tensor:
        """(B,), of the expected cross-entropies."""
        return self.columns.select(-1, 1)

    @property
    def kl(self) -> Tensor:
        """(B,), of the KL divergences to the uniform Dirichlet."""
        return self.columns.select(-1, 2)

    @property
    def vacuity(self) -> Tensor:
        """(B,), of the vacuities, without gradient; over the count they give the mean."""
        return self.columns.select(-1, 3).detach()

    @property
    def dice(self) -> DiceSums | None:
        """Of the probability that was asked for, each (B, C); None without."""
        if self.columns.shape[-1] == 4:
            return None
        intersection, predicted, target = (
            self.columns.narrow(-1, 4, self.columns.shape[-1] - 4).unflatten(-1, (3, -1)).unbind(-2)
        )
        return DiceSums(intersection, predicted, target.detach())


pytree.register_dataclass(EvidentialSums, serialized_type_name="uml_kernels.EvidentialSums")


def evidential_sums(
    logits: Tensor | Sequence[Tensor],
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

    So the sums can first be added over samples and ranks. `uml_kernels.combined_loss` forms the ratios in one step.

    Args:
        logits: (*lead, C, *S), 2 to 16 classes along `dim`, float32, bfloat16 or float16 (float64 on a CPU alone); the
            leading dimensions together are B. Or 1 to 4 such maps of one shape and dtype, for deep supervision.
        target: (*lead, *S) class numbers, uint8 or int64; or (*lead, C, *S) shares of the classes, floating. A number
            that is no class and not `ignore_index` makes its sample's sums NaN; UML_KERNELS_DEBUG=1 stops instead.
        kind: how evidence is formed of logits; "given" where they are evidence.
        dice: what overlaps with the target: softmax of the evidence (UML), alpha / S, or nothing.
        ignore_index: the class number of pixels that do not count, whatever their logits; one that the target's dtype
            can hold.
        dim: the class dimension.
        weight: (*lead, *S) of the pixels; those of weight 0 do not count. Without gradient.
        class_weight: (C,) of the classes in count, cross-entropy, KL and vacuity. Without gradient.

    Raises:
        ValueError: shapes, dtypes, devices or a number of classes that do not fit, or an unknown kind.
    """
    maps = [logits] if isinstance(logits, Tensor) else list(logits)
    if not 1 <= len(maps) <= MOST_MAPS:
        raise ValueError(f"{len(maps)} maps of logits; evidential_sums takes 1 to {MOST_MAPS}")
    if dice not in ("softmax", "expected", "none"):
        raise ValueError(f"dice is {dice!r}; choose softmax, expected or none")
    for each in maps[1:]:
        if (each.shape, each.dtype, each.device) != (maps[0].shape, maps[0].dtype, maps[0].device):
            raise ValueError(
                f"maps of one call must be alike: {tuple(each.shape)} of {each.dtype} on {each.device} is beside "
                f"{tuple(maps[0].shape)} of {maps[0].dtype} on {maps[0].device}"
            )
    pixels, target, weight = _prepare(maps[0], target, kind, dim, weight, class_weight, ignore_index)
    columns, _ = _sums(
        *_alike(pixels, [as_pixels(each, dim) for each in maps[1:]]), target, weight, class_weight, kind, dice,
        ignore_index, False,
    )  # fmt: skip
    return EvidentialSums(columns.squeeze(0) if isinstance(logits, Tensor) else columns)


def _alike(first: Tensor, others: Sequence[Tensor]) -> list[Tensor | None]:
    """Four maps, None where there are fewer; copied unless all have the same strides, as one launch addresses them."""
    maps = [first, *others]
    if any(each.stride() != first.stride() for each in others):
        maps = [each.contiguous() for each in maps]
    return [*maps, *[None] * (MOST_MAPS - len(maps))]


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

    Backward reads the logits again and forms the gradient in float32 for the upstream one, whatever scale that has.

    Args:
        logits: as `evidential_sums`.
        target: likewise.
        kl_weight: a number or a tensor without dimensions, without gradient. A number is part of a captured CUDA graph
            and of a compiled function: pass a tensor where it changes from step to step.
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
    kl_weight = as_scalar("kl_weight", kl_weight, logits)
    if reduction == "none":
        loss, vacuity = _per_pixel(pixels, target, kl_weight, weight, class_weight, kind, ignore_index, return_vacuity)
        loss = loss.reshape(map_shape(logits, dim))
    else:
        if pixels.shape[2] == 1:  # samples of one pixel each become the pixels of one, so that a program takes many
            pixels = pixels.permute(2, 1, 0)
            target = target.permute(2, 1, 0).contiguous() if target.is_floating_point() else target.reshape(1, -1)
            weight = None if weight is None else weight.reshape(1, -1)
        sums, vacuity = _sums(
            pixels, None, None, None, target, weight, class_weight, kind, "none", ignore_index, return_vacuity
        )
        divisor = None if reduction == "mean" else torch.ones_like(kl_weight)
        loss, _ = COMBINE(kl_weight, sums, None, None, divisor, None, [1.0, 1.0, 0.0], True, False, 0.0)
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


def _empty_map(logits: Tensor, wanted: bool) -> Tensor:
    return logits.new_empty((logits.shape[0], logits.shape[2]) if wanted else (0,), dtype=result_dtype(logits))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Tensors go the way of tensors, so that their versions are checked; the rest are attributes."""
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*(each for each in inputs if isinstance(each, Tensor)))
    ctx.inputs = [None if isinstance(each, Tensor) else each for each in inputs]
    ctx.tensors = [isinstance(each, Tensor) for each in inputs]


def _saved(ctx: Any) -> list[Any]:
    """The inputs again."""
    tensors = iter(ctx.saved_tensors)
    return [next(tensors) if tensor else other for tensor, other in zip(ctx.tensors, ctx.inputs, strict=True)]


def _sums_shapes(first: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    maps = [first, *(each for each in others[:3] if each is not None)]
    dice, with_vacuity = others[7], others[9]
    columns = 4 if dice == "none" else 4 + 3 * first.shape[1]
    return first.new_empty((len(maps), first.shape[0], columns), dtype=result_dtype(first)), _empty_map(
        first, with_vacuity
    )


def _sums_backward_shapes(upstream: Tensor, *others: Any) -> tuple[Tensor, ...]:
    maps = others[:4]
    return tuple(maps[0].new_empty(0) if each is None else torch.empty_like(each) for each in maps)


def _sums_gradient(ctx: Any, upstream: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    inputs = _saved(ctx)
    if upstream is None:
        return (None,) * len(inputs)
    gradients = _sums_backward(upstream, *inputs[:-1])
    of_maps = (None if each is None else gradient for each, gradient in zip(inputs[:4], gradients, strict=True))
    return *of_maps, *[None] * (len(inputs) - 4)


_MAPS = "Tensor first, Tensor? second, Tensor? third, Tensor? fourth"
_OTHERS = "Tensor target, Tensor? weight, Tensor? class_weight, str kind, str dice, int ignore_index"
_sums_backward = Operation(
    f"evidential_sums_backward(Tensor upstream, {_MAPS}, {_OTHERS}) -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=cpu.evidential_sums_backward,
    gpu="evidential.evidential_sums_backward",
    shapes=_sums_backward_shapes,
)
_sums = Operation(
    f"evidential_sums({_MAPS}, {_OTHERS}, bool with_vacuity) -> (Tensor, Tensor)",
    cpu=cpu.evidential_sums,
    gpu="evidential.evidential_sums",
    shapes=_sums_shapes,
).differentiable(_save, _sums_gradient)


def _map_shapes(logits: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return _empty_map(logits, True), _empty_map(logits, others[-1])


def _map_gradient(ctx: Any, upstream: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    inputs = _saved(ctx)
    if upstream is None:
        return (None,) * len(inputs)
    return _map_backward(upstream, *inputs[:-1]), *[None] * (len(inputs) - 1)


_ARGUMENTS = "Tensor logits, Tensor target, Tensor kl_weight, Tensor? weight, Tensor? class_weight, str kind"
_map_backward = Operation(
    f"evidential_map_backward(Tensor upstream, {_ARGUMENTS}, int ignore_index) -> Tensor",
    cpu=cpu.evidential_map_backward,
    gpu="evidential.evidential_map_backward",
    shapes=lambda upstream, logits, *_: torch.empty_like(logits),
)
_per_pixel = Operation(
    f"evidential_map({_ARGUMENTS}, int ignore_index, bool with_vacuity) -> (Tensor, Tensor)",
    cpu=cpu.evidential_map,
    gpu="evidential.evidential_map",
    shapes=_map_shapes,
).differentiable(_save, _map_gradient)
