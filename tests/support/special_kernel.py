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
    """Evaluate a function of uml_kernels.special, by name, on float32 (N,)."""
    y = torch.empty_like(x)
    _kernel[(1,)](x, y, len(x), function, triton.next_power_of_2(len(x)))
    return y


UNITS = {
    "create_exp2": lambda exact, error: exact * (1 + 2**-22 * error),
    # 1 ulp: 2^-23 of the power of two below
    "create_fdiv": lambda exact, error: exact + 2**-23 * error * np.exp2(np.floor(np.log2(np.abs(exact)))),
    # Absolute within 0.5 to 2, where the logarithm is between -1 and 1, and relative elsewhere
    "create_log2": lambda exact, error: exact + 2**-22 * error * np.maximum(1, np.abs(exact)),
}
"""What the interpreter's operations become with errors -1 to 1: as the PTX manual documents of ex2, rcp and
lg2.approx.ftz."""


@contextmanager
def disturbed() -> Iterator[None]:
    """Add random errors, as large as those of a GPU's approximate units, to 2^x, quotients and log2."""
    from triton.runtime.interpreter import InterpreterBuilder

    random = np.random.default_rng(0)
    exact_units = {name: getattr(InterpreterBuilder, name) for name in UNITS}

    def off(name):
        def run(self, *arguments):
            result = exact_units[name](self, *arguments)
            exact = result.data.astype(np.float64)
            with np.errstate(all="ignore"):
                found = UNITS[name](exact, random.uniform(-1, 1, exact.shape))
            result.data = np.where(np.isfinite(found), found, exact).astype(result.data.dtype)
            return result

        return run

    for name in UNITS:
        setattr(InterpreterBuilder, name, off(name))
    try:
        yield
    finally:
        for name, unit in exact_units.items():
            setattr(InterpreterBuilder, name, unit)
