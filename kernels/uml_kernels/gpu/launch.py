"""How kernels are launched."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from uml_kernels.check import DEBUG

OPTIONS: Mapping[str, Any] = {"enable_fp_fusion": True}
"""Of the compiler: products and sums become one instruction, whatever Triton's default is (from 3.10 on: not)."""


def launch(
    kernel: Any, programs: int, *arguments: Any, warps: int, registers: int | None = None, **constants: Any
) -> None:
    """Start programs of a kernel on the device of its first tensor, without waiting; nothing where there are none."""
    if programs == 0:
        return
    first = next(each for each in arguments if isinstance(each, Tensor))
    options = {**OPTIONS, "debug": True} if DEBUG else dict(OPTIONS)
    if registers is not None and torch.version.hip is None:
        options["maxnreg"] = registers
    with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
        kernel[(programs,)](*arguments, **constants, num_warps=warps, **options)
