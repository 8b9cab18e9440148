"""Checks of the arguments of all public functions, made before a kernel is launched; each error is one line."""

import os

import torch
from torch import Tensor

from uml_kernels.layout import result_dtype

DEBUG = os.environ.get("UML_KERNELS_DEBUG", "") not in ("", "0")
"""Whether a target that is not a class raises an error: immediately on a CPU, by an asynchronous assertion on a GPU."""
FEWEST, MOST = 2, 16
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
KINDS = ("softplus", "relu", "exp", "given")


def check_logits(logits: Tensor, dim: int = 1, kind: str = "softplus") -> None:
    """Check that logits are floating-point with 2 to 16 classes along `dim`, and that the evidence kind is known.

    Raises:
        ValueError: a check failed; the message names the shape or the kind.
    """
    shape = tuple(logits.shape)
    if kind not in KINDS:
        raise ValueError(f"evidence kind is {kind!r}; choose {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if not logits.is_floating_point():
        raise ValueError(f"logits of shape {shape} have dtype {logits.dtype}; they must be floating-point")
    if not -logits.dim() <= dim < logits.dim():
        raise ValueError(f"logits of shape {shape} have no dimension {dim}")
    if not FEWEST <= logits.shape[dim] <= MOST:
        raise ValueError(
            f"logits of shape {shape} have {logits.shape[dim]} classes along dimension {dim}; "
            f"{FEWEST} to {MOST} are supported"
        )


def check_target(logits: Tensor, target: Tensor, dim: int = 1) -> None:
    """Check that the target holds integer class indices (*lead, *S) or floating-point soft labels (*lead, C, *S).

    Raises:
        ValueError: shape, dtype or device do not match the logits.
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
        raise ValueError(
            f"target has dtype {target.dtype}; class indices must be integers and soft labels floating-point"
        )
    if target.device != logits.device:
        raise ValueError(f"target is on {target.device} and the logits on {logits.device}: move it there")


def check_numbers(target: Tensor, classes: int, ignore_index: int) -> None:
    """Check that the target's dtype can hold `ignore_index`; in debug mode, check every class index too.

    Raises:
        ValueError: a check failed; the message names the index.
    """
    if target.is_floating_point():
        return
    if target.dtype not in INTEGERS:
        raise ValueError(f"target has dtype {target.dtype}; class indices must be uint8, int8, int16, int32 or int64")
    range_ = torch.iinfo(target.dtype)
    if not range_.min <= ignore_index <= range_.max:
        raise ValueError(
            f"ignore_index is {ignore_index}, which a target of {target.dtype} cannot hold: pass a value from "
            f"{range_.min} to {range_.max}"
        )
    if not DEBUG or target.is_cuda:
        return
    unknown = target[(target != ignore_index) & ((target < 0) | (target >= classes))]
    if unknown.numel():
        raise ValueError(
            f"target contains {unknown[0].item()}, which is not a class index: use 0 to {classes - 1}, "
            f"or {ignore_index} to ignore a pixel"
        )


def as_scalar(name: str, value: float | Tensor, like: Tensor) -> Tensor:
    """Convert a number or a 0-dimensional tensor to a scalar tensor on the device of `like`, in its `result_dtype`.

    Raises:
        ValueError: the tensor has dimensions.
    """
    dtype = result_dtype(like)
    if not isinstance(value, Tensor):
        return torch.full((), value, dtype=dtype, device=like.device)
    if value.dim() != 0:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; it must be a number or a 0-dimensional tensor")
    return value.detach().to(like.device, dtype)


def check_weights(logits: Tensor, target: Tensor, dim: int, weight: Tensor | None, class_weight: Tensor | None) -> None:
    """Check shape and device of the weights, and that class weights are used with class indices only.

    Raises:
        ValueError: a check failed; the message names the shapes or devices.
    """
    for name, each in (("weight", weight), ("class_weight", class_weight)):
        if each is not None and each.device != logits.device:
            raise ValueError(f"{name} is on {each.device} and the logits on {logits.device}: move it there")
    dim %= logits.dim()
    pixels = (*logits.shape[:dim], *logits.shape[dim + 1 :])
    if weight is not None and tuple(weight.shape) != pixels:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; logits {tuple(logits.shape)} need {pixels}")
    if class_weight is None:
        return
    if tuple(class_weight.shape) != (logits.shape[dim],):
        raise ValueError(
            f"class_weight has shape {tuple(class_weight.shape)}; it needs one value for each of "
            f"{logits.shape[dim]} classes"
        )
    if target.is_floating_point():
        raise ValueError("class_weight needs a target of class indices: multiply soft labels by the weights instead")
