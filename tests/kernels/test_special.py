"""Tests of the kernels' special functions against mpmath, with exact units and with a GPU's approximate units."""

import os
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from mpmath import exp, log, log1p, loggamma, mp, mpf, psi

from uml_kernels.cpu import remainders

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
mp.dps = 30

FUNCTIONS = {
    "reciprocal": lambda x: 1 / x,
    "logarithm": log,
    "log1p_unit": log1p,
    "exponential": exp,
    "digamma": lambda x: psi(0, x),
    "trigamma": lambda x: psi(1, x),
    "concentration": lambda w: w - w * psi(0, 1 + w) + loggamma(1 + w),
}
RANGES = {
    "reciprocal": (0, 9.6), "logarithm": (0, 9.6), "log1p_unit": (-8, 0), "digamma": (0, 8), "trigamma": (0, 8),
    "concentration": (-6, 8),
}  # fmt: skip
# The table in uml_kernels.special: function, whether the error is relative (else the smaller of relative and absolute),
# bound with exact units, bound with disturbed units
BOUNDS = [
    ("reciprocal", True, 1.0e-7, 1.8e-7),
    ("logarithm", False, 1.2e-7, 3.4e-7),
    ("log1p_unit", True, 1.9e-7, 1.9e-7),
    ("exponential", True, 3.8e-6, 4.0e-6),
    ("digamma", False, 1.7e-7, 3.6e-7),
    ("trigamma", True, 4.4e-7, 4.7e-7),
    ("concentration", False, 1.5e-7, 3.5e-7),
]


def arguments(function):
    if function == "exponential":
        return np.linspace(-87, 0, 2048, dtype=np.float32)
    low, high = RANGES[function]
    drawn = 10 ** np.random.default_rng(0).uniform(low, high, 2048)
    return np.clip(drawn, 10.0**low, 10.0**high).astype(np.float32)


def largest_error(function, values, relative):
    from special_kernel import evaluate

    device = os.environ.get("UML_KERNELS_DEVICE", "cpu")
    found = evaluate(function, torch.from_numpy(values).to(device)).double().cpu().numpy()
    exact = [FUNCTIONS[function](mpf(float(x))) for x in values]
    return max(
        float(abs(f - e) / (abs(e) if relative else max(1, abs(e)))) for f, e in zip(found.tolist(), exact, strict=True)
    )


@pytest.mark.parametrize("off", [False, True])
@pytest.mark.parametrize(("function", "relative", "plain", "disturbed_bound"), BOUNDS)
def test_errors_are_within_the_documented_bounds(device, function, relative, plain, disturbed_bound, off):
    if not INTERPRETED and device.type == "cpu":
        pytest.skip("the kernels' functions need the interpreter or a GPU")
    if off and not INTERPRETED:
        pytest.skip("a GPU has its own approximate units")
    from special_kernel import disturbed

    with disturbed() if off else nullcontext():
        error = largest_error(function, arguments(function), relative)
    print(f"{function}: {error:.2e}, {'disturbed' if off else 'plain'}")
    assert error <= (disturbed_bound if off or device.type != "cpu" else plain)


def test_cpu_and_kernels_use_the_same_polynomials():
    special = pytest.importorskip("uml_kernels.special", exc_type=ImportError)
    for name in ("LOG1P", "DIGAMMA", "TRIGAMMA", "CONCENTRATION"):
        assert getattr(special, f"_{name}").value == getattr(remainders, name)
