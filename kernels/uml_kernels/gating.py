"""Multiplication of features by an uncertainty gate, as in UML's navigator and reliable masks."""

from typing import Any

import torch
from torch import Tensor

from uml_kernels import plain
from uml_kernels.cpu import gating as cpu
from uml_kernels.layout import as_pixels
from uml_kernels.operation import Operation


def gated(feature: Tensor, gate: Tensor, addend: Tensor | None = None) -> Tensor:
    """Compute (feature + addend) * gate in float32 (float64 inputs on a CPU in float64), regardless of autocast.

    Differentiable in all three arguments; one pass computes the gradients.

    Args:
        feature: (B, F, *S), any floating-point dtype, any strides, any number F of channels.
        gate: (B, *S), floating-point, such as `Opinion.gate`.
        addend: shape of the feature; its dtype may differ.

    Returns:
        (B, F, *S) in the dtype of the feature.

    Raises:
        ValueError: shapes or devices do not match, or a dtype is not floating-point.
    """
    _check(feature, gate, addend)
    if plain.is_exporting():
        return plain.gated(feature, gate, addend)
    pixels = as_pixels(feature)
    flat = gate.reshape(pixels.shape[0], pixels.shape[2]).contiguous()
    result = _gated(pixels, flat, None if addend is None else as_pixels(addend))
    return result.reshape(feature.shape)


def _check(feature: Tensor, gate: Tensor, addend: Tensor | None) -> None:
    shape = tuple(feature.shape)
    if feature.dim() < 2:
        raise ValueError(f"feature has shape {shape}; it must be (samples, channels, ...)")
    if tuple(gate.shape) != (shape[0], *shape[2:]):
        raise ValueError(
            f"gate has shape {tuple(gate.shape)}; a feature of shape {shape} needs {(shape[0], *shape[2:])}"
        )
    if addend is not None and tuple(addend.shape) != shape:
        raise ValueError(f"addend has shape {tuple(addend.shape)}; it needs the feature's shape, {shape}")
    for name, each in (("feature", feature), ("gate", gate), ("addend", addend)):
        if each is not None and not each.is_floating_point():
            raise ValueError(f"{name} has dtype {each.dtype}; it must be floating-point")
        if each is not None and each.device != feature.device:
            raise ValueError(f"{name} is on {each.device} and the feature on {feature.device}: move it there")


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feature, gate, addend = inputs
    ctx.save_for_backward(*(each for each in (feature, gate, addend) if each is not None))


def _gradient(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    feature, gate, *rest = ctx.saved_tensors
    addend = rest[0] if rest else None
    # Feature and addend have the same gradient, so they share one tensor unless their dtypes differ
    apart = addend is not None and addend.dtype != feature.dtype and ctx.needs_input_grad[2]
    for_feature, for_gate, for_addend = _gated_backward(upstream, feature, gate, addend, apart)
    if addend is None:
        return for_feature, for_gate, None
    return for_feature, for_gate, for_addend if apart else for_feature


def _backward_shapes(
    upstream: Tensor, feature: Tensor, gate: Tensor, addend: Tensor | None, apart: bool
) -> tuple[Tensor, Tensor, Tensor]:
    apart_from = torch.empty_like(feature, dtype=addend.dtype) if apart and addend is not None else feature.new_empty(0)
    return torch.empty_like(feature), torch.empty_like(gate), apart_from


_gated_backward = Operation(
    "gated_backward(Tensor upstream, Tensor feature, Tensor gate, Tensor? addend, bool apart) "
    "-> (Tensor, Tensor, Tensor)",
    cpu=cpu.gated_backward,
    gpu="gating.gated_backward",
    shapes=_backward_shapes,
)
_gated = Operation(
    "gated(Tensor feature, Tensor gate, Tensor? addend) -> Tensor",
    cpu=cpu.gated,
    gpu="gating.gated",
    shapes=lambda feature, gate, addend: torch.empty_like(feature),
).differentiable(_save, _gradient)
