"""One operator of the library `uml_kernels`: a CPU twin, a Triton launcher, shapes, and a gradient.

Registered with torch.library, so that torch.compile traces it whole. In eager mode on a GPU the dispatcher is left out,
which would cost more than the kernel. With TRITON_INTERPRET=1 the kernels themselves run on CPU tensors.
"""

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

LIBRARY = torch.library.Library("uml_kernels", "DEF")
INTERPRETED = os.environ.get("TRITON_INTERPRET", "") == "1"


class Operation:
    """An operator; its arguments are positional.

    Args:
        schema: as of torch.library, such as "vacuity(Tensor logits, str kind) -> Tensor".
        cpu: its twin for CPU tensors.
        gpu: module and function in `uml_kernels.gpu`, such as "opinion.vacuity"; imported when first needed, so that
            the package works without Triton.
        shapes: makes empty results of the arguments.
    """

    def __init__(self, schema: str, *, cpu: Callable[..., Any], gpu: str, shapes: Callable[..., Any]) -> None:
        self.name = schema.partition("(")[0]
        self._gpu = gpu
        self._function: Any = None
        LIBRARY.define(schema)
        LIBRARY.impl(self.name, self._run_on_gpu if INTERPRETED else cpu, "CPU")
        LIBRARY.impl(self.name, self._run_on_gpu, "CUDA")
        torch.library.register_fake(f"uml_kernels::{self.name}", shapes, lib=LIBRARY)
        self._registered = getattr(torch.ops.uml_kernels, self.name).default

    def differentiable(
        self, save: Callable[..., None], gradient: Callable[..., Any], eager: Callable[..., Any] | None = None
    ) -> "Operation":
        """Register its gradient.

        Args:
            save: of (ctx, inputs, output), as `setup_context` of torch.autograd.Function.
            gradient: of (ctx, *upstream), one result for each input.
            eager: what takes its place in eager mode on a GPU, where it may do what cannot be traced.
        """
        torch.library.register_autograd(f"uml_kernels::{self.name}", gradient, setup_context=save, lib=LIBRARY)
        members = {
            "forward": staticmethod(self._run_on_gpu),
            "setup_context": staticmethod(save),
            "backward": staticmethod(torch.autograd.function.once_differentiable(eager or gradient)),
        }
        self._function = type(self.name, (torch.autograd.Function,), members)
        return self

    def __call__(self, *arguments: Any) -> Any:
        """The result, on the device of the first argument."""
        first: Tensor = arguments[0]
        if first.is_cuda and not torch.compiler.is_compiling():
            return self._run_on_gpu(*arguments) if self._function is None else self._function.apply(*arguments)
        return self._registered(*arguments)

    def _run_on_gpu(self, *arguments: Any) -> Any:
        module, _, function = self._gpu.partition(".")
        return getattr(import_module(f"uml_kernels.gpu.{module}"), function)(*arguments)
