"""Records the kernel launches of a library call and their arguments on tensors without data; it needs no GPU."""

import pkgutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

import uml_kernels.gpu
from uml_kernels import table
from uml_kernels.operation import Operation

POINTERS = {
    torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int64: "i64",
    torch.int32: "i32", torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8", torch.bool: "i1",
}  # fmt: skip


class Launch(NamedTuple):
    """One launch.

    Attributes:
        kernel: the function under `triton.jit`.
        programs: size of the grid.
        pointers, integers, constants, warps, registers: see `compile_kernel`.
        bytes: total size of the tensors in its arguments, counting each tensor once.
        backward: whether it belongs to the backward pass.
    """

    kernel: Any
    programs: int
    pointers: dict[str, str | None]
    integers: dict[str, Any]
    constants: dict[str, Any]
    warps: int
    bytes: int
    backward: bool = False
    registers: int | None = None

    @property
    def name(self) -> str:
        """Name of the kernel with its module."""
        module = self.kernel.__module__.rpartition(".")[2].removesuffix("_kernels")
        own = self.kernel.__name__.removesuffix("_kernel")
        return (own if own.startswith(module) else f"{module} {own}").replace("_", " ")


def recorded(call: Callable[[], Any], architecture: str = "any") -> list[Launch]:
    """Return the launches of a call, forward and backward, on tensors of device "meta".

    Args:
        call: function that calls the library; results that require a gradient are differentiated too.
        architecture: architecture whose rows of the table are used.
    """
    launches: list[Launch] = []

    def note(
        kernel: Any, programs: int, *arguments: Any, warps: int, registers: int | None = None, **constants: Any
    ) -> None:
        launches.append(_launch(kernel, programs, arguments, warps, constants)._replace(registers=registers))

    with _instead_of_launch(note), patch.object(table, "architecture", lambda device: architecture):
        differentiable = [one for one in _tensors(call()) if one.requires_grad]
        forward = len(launches)
        if differentiable:
            torch.autograd.backward(differentiable, [torch.empty_like(one) for one in differentiable])
    return launches[:forward] + [one._replace(backward=True) for one in launches[forward:]]


def _launch(kernel: Any, programs: int, arguments: tuple[Any, ...], warps: int, constants: dict[str, Any]) -> Launch:
    named = dict(zip(kernel.arg_names, arguments, strict=False))
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    pointers = {name: POINTERS[value.dtype] for name, value in tensors.items()}
    absent = {name: None for name, value in named.items() if value is None}
    integers = {name: value for name, value in named.items() if isinstance(value, (int, float, tuple))}
    moved = sum({id(one): one.numel() * one.element_size() for one in tensors.values()}.values())
    return Launch(kernel, programs, pointers | absent, integers, constants, warps, moved)


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, (tuple, list)):
        for one in result:
            yield from _tensors(one)


@contextmanager
def _instead_of_launch(note: Callable[..., None]) -> Iterator[None]:
    """Make operations run their launchers on any tensor, and launchers call `note`."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(Operation, "__call__", _without_dispatcher))
        for found in pkgutil.iter_modules(uml_kernels.gpu.__path__, "uml_kernels.gpu."):
            module = import_module(found.name)
            if hasattr(module, "launch") and not found.name.endswith(".launch"):
                stack.enter_context(patch.object(module, "launch", note))
        yield


def _without_dispatcher(operation: Any, *arguments: Any) -> Any:
    return operation._run_on_gpu(*arguments) if operation._function is None else operation._function.apply(*arguments)
