"""How kernels are launched."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from uml_kernels.check import DEBUG


def launch(kernel: Any, programs: int, *arguments: Any, warps: int, **constants: Any) -> None:
    """Start programs of a kernel on the device of its first argument, without waiting; nothing where there are none."""
    if programs == 0:
        return
    first: Tensor = arguments[0]
    options: Mapping[str, Any] = {"debug": True} if DEBUG else {}
    with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
        kernel[(programs,)](*arguments, **constants, num_warps=warps, **options)
