"""The evidential objective: expected cross-entropy, KL to the uniform Dirichlet, and the sums for Dice overlaps.

kernels/README.md derives the forms that avoid cancellation. All values are computed in registers from the logits: one
read of the logits forward, one read and one write of the gradient backward.
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
    """Keyword arguments of `evidential_loss`, for type checkers."""

    kind: EvidenceKind
    ignore_index: int
    dim: int
    weight: Tensor | None
    class_weight: Tensor | None
    reduction: Reduction


@dataclass(frozen=True)
class EvidentialSums:
    """Weighted per-sample sums over the valid pixels; sums of several samples, devices and ranks can be added.

    Attributes:
        columns: all sums in the order of the properties, (B, 4 + 3 C), or (B, 4) without Dice sums; float32 (float64
            for float64 logits). For several maps it is (maps, B, ...) and the properties are (maps, B).
    """

    columns: Tensor

    @property
    def count(self) -> Tensor:
        """Sum of the weights (B,)."""
        return self.columns.select(-1, 0).detach()

    @property
    def cross_entropy(self) -> Tensor:
        """Sum of the expected cross-entropies (B,)."""
        return self.columns.select(-1, 1)

    @property
    def kl(self) -> Tensor:
        """Sum of the KL divergences to the uniform Dirichlet (B,)."""
        return self.columns.select(-1, 2)

    @property
    def vacuity(self) -> Tensor:
        """Sum of the vacuities (B,), without gradient; divide by `count` for the mean."""
        return self.columns.select(-1, 3).detach()

    @property
    def dice(self) -> DiceSums | None:
        """Dice sums of the requested probability, each (B, C); None if `dice` was "none"."""
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
    """Compute the per-sample sums of the evidential objective; differentiable.

    The caller forms the ratios, after adding the sums over samples and ranks where needed; `uml_kernels.combined_loss`
    does so in one step.

    Args:
        logits: (*lead, C, *S), 2 to 16 classes along `dim`, float32, bfloat16 or float16 (float64 on a CPU only); B is
            the product of the leading dimensions. Or 1 to 4 such maps of equal shape and dtype, for deep supervision.
        target: (*lead, *S) integer class indices, or (*lead, C, *S) floating-point soft labels. An index that is
            neither a class nor `ignore_index` makes its sample's sums NaN; with UML_KERNELS_DEBUG=1 it raises an error.
        kind: how logits become evidence; "given" if they are evidence.
        dice: probability in the Dice sums: "softmax" of the evidence (UML), "expected" (alpha / S), or "none".
        ignore_index: class index of the pixels to ignore, whatever their logits; the target's dtype must be able to
            hold it.
        dim: class dimension.
        weight: (*lead, *S), pixel weights; pixels of weight 0 are ignored. Without gradient.
        class_weight: (C,), class weights in count, cross-entropy, KL and vacuity. Without gradient.

    Raises:
        ValueError: a shape, dtype, device or number of classes does not match, or the kind is unknown.
    """
    maps = [logits] if isinstance(logits, Tensor) else list(logits)
    if not 1 <= len(maps) <= MOST_MAPS:
        raise ValueError(f"{len(maps)} maps of logits; evidential_sums takes 1 to {MOST_MAPS}")
    if dice not in ("softmax", "expected", "none"):
        raise ValueError(f"dice is {dice!r}; choose softmax, expected or none")
    for each in maps[1:]:
        if (each.shape, each.dtype, each.device) != (maps[0].shape, maps[0].dtype, maps[0].device):
            raise ValueError(
                f"maps of one call must have equal shape, dtype and device: got {tuple(each.shape)} of {each.dtype} on "
                f"{each.device} and {tuple(maps[0].shape)} of {maps[0].dtype} on {maps[0].device}"
            )
    pixels, target, weight = _prepare(maps[0], target, kind, dim, weight, class_weight, ignore_index)
    columns, _ = _sums(
        *_alike(pixels, [as_pixels(each, dim) for each in maps[1:]]), target, weight, class_weight, kind, dice,
        ignore_index, False,
    )  # fmt: skip
    return EvidentialSums(columns.squeeze(0) if isinstance(logits, Tensor) else columns)


def _alike(first: Tensor, others: Sequence[Tensor]) -> list[Tensor | None]:
    """Pad to four maps with None; copy the maps unless their strides are equal, since one launch addresses them all."""
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
    """Compute the expected cross-entropy + kl_weight * KL to the uniform Dirichlet (Sensoy et al. 2018, digamma form).

    The backward pass reads the logits again and applies the upstream gradient in float32, so any loss scale works.

    Args:
        logits: one map; see `evidential_sums`.
        target: see `evidential_sums`.
        kl_weight: a number or a 0-dimensional tensor, without gradient. A number is frozen in a captured CUDA graph and
            in a compiled function: pass a tensor if it changes between steps.
        kind: see `evidential_sums`.
        ignore_index: class index of the pixels whose loss and gradient are exactly 0.
        dim: class dimension.
        weight: see `evidential_sums`.
        class_weight: see `evidential_sums`.
        reduction: "none" returns (*lead, *S), "sum" and "mean" a scalar. The mean divides by the sum of the weights of
            the valid pixels, and is 0 if there are none.
        return_vacuity: also return the vacuities (*lead, *S), without gradient.

    Returns:
        The loss, or the loss and the vacuities.

    Raises:
        ValueError: see `evidential_sums`; or the reduction is unknown.
    """
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; choose none, mean or sum")
    pixels, target, weight = _prepare(logits, target, kind, dim, weight, class_weight, ignore_index)
    kl_weight = as_scalar("kl_weight", kl_weight, logits)
    if reduction == "none":
        loss, vacuity = _per_pixel(pixels, target, kl_weight, weight, class_weight, kind, ignore_index, return_vacuity)
        loss = loss.reshape(map_shape(logits, dim))
    else:
        if pixels.shape[2] == 1:  # make samples of one pixel the pixels of one sample, so that a program processes many
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
    """Check the arguments; return logits (B, C, P), target (B, P), or (B, C, P) if soft, and weight (B, P)."""
    check_logits(logits, dim, kind)
    if logits.is_cuda and logits.dtype == torch.float64:
        raise ValueError("float64 logits are supported on a CPU only; the GPU kernels use float32: pass logits.float()")
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
    """Save tensors by save_for_backward, so that autograd checks their versions, and other inputs as attributes."""
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*(each for each in inputs if isinstance(each, Tensor)))
    ctx.inputs = [None if isinstance(each, Tensor) else each for each in inputs]
    ctx.tensors = [isinstance(each, Tensor) for each in inputs]


def _saved(ctx: Any) -> list[Any]:
    """Return the inputs that `_save` saved, in their order."""
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
