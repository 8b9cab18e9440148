"""Launching of kernels with the compiler options that all of them share."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from uml_kernels.check import DEBUG

OPTIONS: Mapping[str, Any] = {"enable_fp_fusion": True}
"""Compiler options: fuse multiply and add, independently of Triton's default (off from 3.10 on)."""


def launch(
    kernel: Any, programs: int, *arguments: Any, warps: int, registers: int | None = None, **constants: Any
) -> None:
    """Launch a number of programs of a kernel on the device of its first tensor, asynchronously.

    Args:
        kernel: Triton kernel.
        programs: size of the grid; 0 launches nothing.
        arguments: the kernel's run-time arguments.
        warps: warps per program.
        registers: maximum registers per thread, or None; not used on AMD.
        constants: the kernel's compile-time arguments.
    """
    if programs == 0:
        return
    first = next(each for each in arguments if isinstance(each, Tensor))
    options = {**OPTIONS, "debug": True} if DEBUG else dict(OPTIONS)
    if registers is not None and torch.version.hip is None:
        options["maxnreg"] = registers
    with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
        kernel[(programs,)](*arguments, **constants, num_warps=warps, **options)
