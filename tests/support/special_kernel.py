"""A kernel that evaluates one special function elementwise, also with the GPU's approximate units disturbed."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from uml_kernels.special import concentration, digamma, exponential, log1p_unit, logarithm, reciprocal, trigamma


@triton.jit
def _kernel(x, y, N, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < N, other=1.0)
    if FUNCTION == "reciprocal":
        result = reciprocal(value)
    elif FUNCTION == "logarithm":
        result = logarithm(value)
    elif FUNCTION == "log1p_unit":
        result = log1p_unit(value)
    elif FUNCTION == "exponential":
        result = exponential(value)
    elif FUNCTION == "digamma":
        result = digamma(value)
    elif FUNCTION == "trigamma":
        result = trigamma(value)
    else:
        rest, _, _ = concentration(value)
        result = 0.5 * logarithm(1.0 + value) + rest
    tl.store(y + at, result, mask=at < N)


def evaluate(function: str, x: Tensor) -> Tensor:
    """The function of uml_kernels.special of this name, of float32 (N,)."""
    y = torch.empty_like(x)
    _kernel[(1,)](x, y, len(x), function, triton.next_power_of_2(len(x)))
    return y


@contextmanager
def disturbed(relative: float) -> Iterator[None]:
    """Let the interpreter's 2^x and 1 / sqrt(x) err by up to so much, at random: a GPU has approximate units for them.

    A logarithm needs none: `uml_kernels.special` forms it of arithmetic alone.
    """
    from triton.runtime.interpreter import InterpreterBuilder

    random = np.random.default_rng(0)
    units = {name: getattr(InterpreterBuilder, name) for name in ("create_exp2", "create_rsqrt")}

    def off(unit):
        def run(self, argument):
            result = unit(self, argument)
            error = random.uniform(1 - relative, 1 + relative, result.data.shape)
            result.data = (result.data * error).astype(result.data.dtype)
            return result

        return run

    for name, unit in units.items():
        setattr(InterpreterBuilder, name, off(unit))
    try:
        yield
    finally:
        for name, unit in units.items():
            setattr(InterpreterBuilder, name, unit)
