"""Operators of the library `uml_kernels`: each has a CPU implementation, a Triton launcher, shapes and a gradient.

Every operator is registered with torch.library, so torch.compile traces it as one node and torch.func transforms it. In
eager mode on a GPU, plain tensors bypass the dispatcher, which would cost more than the kernel. With TRITON_INTERPRET=1
the kernels themselves run on CPU tensors.
"""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.autograd.function import _SingleLevelFunction
from torch.nn import Parameter

LIBRARY = torch.library.Library("uml_kernels", "DEF")
INTERPRETED = os.environ.get("TRITON_INTERPRET", "") == "1"


def needs_dispatcher(arguments: Sequence[Any]) -> bool:
    """Return whether the call must go through torch's dispatcher.

    A compiler, an exporter, a trace, a transform of torch.func, a mode, or a tensor subclass such as a FakeTensor needs
    to see the call. Autograd does not: the function that bypasses the dispatcher records the call too.
    """
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or any(isinstance(each, Tensor) and type(each) not in (Tensor, Parameter) for each in arguments)
    )


class Operation:
    """An operator with positional arguments.

    After `differentiable` it has one reverse-mode derivative; otherwise differentiating it is an error. torch.vmap runs
    it once per sample.

    Args:
        schema: torch.library schema, such as "vacuity(Tensor logits, str kind) -> Tensor".
        cpu: implementation for CPU tensors.
        gpu: module and function in `uml_kernels.gpu`, such as "opinion.vacuity"; imported on first use, so that the
            package works without Triton.
        shapes: function that returns empty results for the arguments (the fake implementation).
    """

    def __init__(self, schema: str, *, cpu: Callable[..., Any], gpu: str, shapes: Callable[..., Any]) -> None:
        self.name = schema.partition("(")[0]
        self._gpu = gpu
        self._function: Any = None
        LIBRARY.define(schema)
        LIBRARY.impl(self.name, self._run_on_gpu if INTERPRETED else cpu, "CPU")
        LIBRARY.impl(self.name, self._run_on_gpu, "CUDA")
        LIBRARY.impl(self.name, self._run_under_autograd, "Autograd")
        torch.library.register_fake(f"uml_kernels::{self.name}", shapes, lib=LIBRARY)
        torch.library.register_vmap(f"uml_kernels::{self.name}", self._run_each_sample, lib=LIBRARY)
        self._registered = getattr(torch.ops.uml_kernels, self.name).default
        self._changed = [place for place, each in enumerate(self._registered._schema.arguments) if each.is_write]
        self._recorded = self._make_recorded(_save_nothing, None)

    def differentiable(self, save: Callable[..., None], gradient: Callable[..., Any]) -> "Operation":
        """Register the gradient.

        Args:
            save: called with (ctx, inputs, output) like `setup_context` of torch.autograd.Function. It must save every
                differentiable input that the gradient depends on with `save_for_backward`.
            gradient: called with (ctx, *upstream); returns one result for each input. It runs without grad mode.

        Returns:
            This operator.
        """
        self._recorded = self._make_recorded(save, gradient)
        self._function = self._make_function(torch.autograd.Function, self._run_on_gpu, save, gradient)
        return self

    def __call__(self, *arguments: Any) -> Any:
        """Run the operator on the device of the first argument."""
        if arguments[0].is_cuda and not self._changed and not needs_dispatcher(arguments):
            return self._run_on_gpu(*arguments) if self._function is None else self._function.apply(*arguments)
        return self._registered(*arguments)

    def _run_on_gpu(self, *arguments: Any) -> Any:
        module, _, function = self._gpu.partition(".")
        try:
            launchers = import_module(f"uml_kernels.gpu.{module}")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "triton":
                raise
            raise RuntimeError(
                f"uml_kernels.{self.name} needs Triton on a GPU: install it with pip install 'uml-kernels[triton]'"
            ) from None
        return getattr(launchers, function)(*arguments)

    def _run_under_autograd(self, *arguments: Any) -> Any:
        for place in self._changed:  # so that autograd reports a saved tensor that the operator changes
            torch.autograd.graph.increment_version(arguments[place])
        # The dispatcher calls this once for each level of torch.func's transforms, so use a single-level function
        levels = torch._C._are_functorch_transforms_active()
        if not levels and not torch.is_grad_enabled() and forward_ad._current_level < 0:
            with torch._C._AutoDispatchBelowAutograd():
                return self._registered(*arguments)
        modes = (torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled()) if levels else None
        with enable_single_level_autograd_function():
            return self._recorded.apply(*arguments, modes)

    def _run_below_autograd(self, *arguments: Any) -> Any:
        *inputs, modes = arguments
        with torch._C._AutoDispatchBelowAutograd():
            if modes is None:
                return self._registered(*inputs)
            # The autograd function turns both modes off, but the levels below need them to record their calls
            with torch.set_grad_enabled(modes[0]), _set_fwd_grad_enabled(modes[1]):
                return self._registered(*inputs)

    def _run_each_sample(self, info: Any, dimensions: Sequence[int | None], *arguments: Any) -> tuple[Any, Any]:
        """Batching rule for torch.vmap: run the operator once per sample."""
        if self._changed:
            raise NotImplementedError(f"uml_kernels.{self.name} changes its first argument, which torch.vmap cannot do")
        if info.batch_size == 0:
            raise ValueError(f"uml_kernels.{self.name} cannot run under torch.vmap over a dimension of size 0")
        results = [
            self._registered(
                *(
                    each.select(dimension, sample) if isinstance(dimension, int) else each
                    for each, dimension in zip(arguments, dimensions, strict=True)
                )
            )
            for sample in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = tuple(torch.stack(each) for each in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    def _make_recorded(self, save: Any, gradient: Any) -> Any:
        """Make the autograd function for the dispatcher; its last argument, the modes, has no gradient."""

        def save_all(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            save(ctx, inputs[:-1], output)

        def gradients(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
            results = gradient(ctx, *upstream)
            return (*results, None) if isinstance(results, tuple) else (results, None)

        return self._make_function(
            _SingleLevelFunction, self._run_below_autograd, save_all, None if gradient is None else gradients
        )

    def _make_function(self, base: Any, forward: Any, save: Any, gradient: Any) -> Any:
        def backward(ctx: Any, *upstream: Tensor | None) -> Any:
            if gradient is None:
                _refuse_derivative(self.name)
            if not torch.is_grad_enabled():
                return gradient(ctx, *upstream)
            ctx = _Unpacked(ctx)
            with torch.no_grad():
                results = gradient(ctx, *upstream)
            return _differentiated_once(self.name, results, (*upstream, *ctx.saved_tensors))

        def jvp(ctx: Any, *tangents: Tensor | None) -> NoReturn:
            if gradient is None:
                _refuse_derivative(self.name)
            raise NotImplementedError(
                f"uml_kernels.{self.name} has no forward-mode derivative: "
                "use reverse mode, such as torch.autograd.grad or torch.func.grad, vjp or jacrev"
            )

        members = {"forward": forward, "setup_context": save, "backward": backward, "jvp": jvp}
        return type(self.name, (base,), {name: staticmethod(member) for name, member in members.items()})


class _Unpacked:
    """A context with unpacked saved tensors, because torch.utils.checkpoint allows unpacking them only once."""

    def __init__(self, ctx: Any) -> None:
        self.__dict__.update(_ctx=ctx, saved_tensors=ctx.saved_tensors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._ctx, name, value)


class _Once(torch.autograd.Function):
    """Identity on gradients that links them to the tensors they depend on and raises an error when differentiated.

    torch's `once_differentiable` checks only the upstream gradients, which are often constant: a gradient penalty would
    then silently be constant too.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(each.view_as(each) for each in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> NoReturn:
        _refuse_derivative(f"{ctx.name}_backward")

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> NoReturn:
        _refuse_derivative(f"{ctx.name}_backward")


def _differentiated_once(name: str, results: Any, sources: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    results = results if isinstance(results, tuple) else (results,)
    gradients = [each for each in results if each is not None]
    joined = iter(_Once.apply(name, len(gradients), *gradients, *(each for each in sources if each is not None)))
    return tuple(None if each is None else next(joined) for each in results)


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


def _refuse_derivative(name: str) -> NoReturn:
    if name.endswith("_backward"):
        raise NotImplementedError(
            f"uml_kernels.{name.removesuffix('_backward')} can be differentiated only once: detach its gradient, "
            "or use torch's own operators if you need a second derivative (gradient penalty, Hessian)"
        )
    raise NotImplementedError(f"uml_kernels.{name} has no derivative: detach its input")
