"""What every public function refuses, in one line: no kernel is started on what does not fit."""

import os

import torch
from torch import Tensor

from uml_kernels.layout import result_dtype

DEBUG = os.environ.get("UML_KERNELS_DEBUG", "") not in ("", "0")
"""Stop at a target that is no class: at once on a CPU, by the kernels' assertion on a GPU, without waiting for it."""
FEWEST, MOST = 2, 16
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
KINDS = ("softplus", "relu", "exp", "given")


def check_logits(logits: Tensor, dim: int = 1, kind: str = "softplus") -> None:
    """Refuse logits that are not floating, have no class dimension, or not 2 to 16 classes; and an unknown kind.

    Raises:
        ValueError: one line that names the shape.
    """
    shape = tuple(logits.shape)
    if kind not in KINDS:
        raise ValueError(f"evidence kind is {kind!r}; choose {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if not logits.is_floating_point():
        raise ValueError(f"logits of shape {shape} have dtype {logits.dtype}; they must be floating")
    if not -logits.dim() <= dim < logits.dim():
        raise ValueError(f"logits of shape {shape} have no dimension {dim}")
    if not FEWEST <= logits.shape[dim] <= MOST:
        raise ValueError(
            f"logits of shape {shape} have {logits.shape[dim]} classes along dimension {dim}; {FEWEST} to {MOST} fit"
        )


def check_target(logits: Tensor, target: Tensor, dim: int = 1) -> None:
    """Refuse a target that is neither class numbers (*lead, *S) nor floating shares (*lead, C, *S) of the logits.

    Raises:
        ValueError: one line that names both shapes.
    """
    dim %= logits.dim()
    expected = tuple(logits.shape)
    if not target.is_floating_point():
        expected = (*expected[:dim], *expected[dim + 1 :])
    if tuple(target.shape) != expected:
        raise ValueError(
            f"target of {target.dtype} has shape {tuple(target.shape)}; logits {tuple(logits.shape)} need {expected}"
        )
    if not target.is_floating_point() and (target.is_complex() or str(target.dtype) == "torch.bool"):
        raise ValueError(f"target has dtype {target.dtype}; class numbers must be integers, shares floating")
    if target.device != logits.device:
        raise ValueError(f"target is on {target.device}, the logits on {logits.device}: move it there")


def check_numbers(target: Tensor, classes: int, ignore_index: int) -> None:
    """Refuse an `ignore_index` that the dtype of class numbers cannot hold; in debug mode, numbers that are no class.

    Raises:
        ValueError: one line that names the number.
    """
    if target.is_floating_point():
        return
    if target.dtype not in INTEGERS:
        raise ValueError(f"target has dtype {target.dtype}; class numbers must be uint8, int8, int16, int32 or int64")
    range_ = torch.iinfo(target.dtype)
    if not range_.min <= ignore_index <= range_.max:
        raise ValueError(
            f"ignore_index is {ignore_index}, which a target of {target.dtype} cannot hold: pass one from "
            f"{range_.min} to {range_.max}"
        )
    if not DEBUG or target.is_cuda:
        return
    unknown = target[(target != ignore_index) & ((target < 0) | (target >= classes))]
    if unknown.numel():
        raise ValueError(f"target {unknown[0].item()} is no class: there are {classes}, and {ignore_index} is ignored")


def as_scalar(name: str, value: float | Tensor, like: Tensor) -> Tensor:
    """A number, or a tensor without dimensions, as a scalar tensor beside another, in its `result_dtype`.

    Raises:
        ValueError: one line that names the shape of a tensor with dimensions.
    """
    dtype = result_dtype(like)
    if not isinstance(value, Tensor):
        return torch.full((), value, dtype=dtype, device=like.device)
    if value.dim() != 0:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; it must be a number or a tensor without dimensions")
    return value.detach().to(like.device, dtype)


def check_weights(logits: Tensor, target: Tensor, dim: int, weight: Tensor | None, class_weight: Tensor | None) -> None:
    """Refuse weights of another shape or device, and weights of classes for shares.

    Raises:
        ValueError: one line that names the shapes or devices.
    """
    for name, one in (("weight", weight), ("class_weight", class_weight)):
        if one is not None and one.device != logits.device:
            raise ValueError(f"{name} is on {one.device}, the logits on {logits.device}: move it there")
    dim %= logits.dim()
    pixels = (*logits.shape[:dim], *logits.shape[dim + 1 :])
    if weight is not None and tuple(weight.shape) != pixels:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; logits {tuple(logits.shape)} need {pixels}")
    if class_weight is None:
        return
    if tuple(class_weight.shape) != (logits.shape[dim],):
        raise ValueError(
            f"class_weight has shape {tuple(class_weight.shape)}; {logits.shape[dim]} classes need as many"
        )
    if target.is_floating_point():
        raise ValueError("class_weight is for class numbers: multiply a target of shares by it instead")
