"""Special functions for the Triton kernels: elementwise, float32.

On NVIDIA GPUs, inline assembly makes reciprocals and logarithms single instructions of the approximate unit. Triton's
own forms, which AMD GPUs and the interpreter use, take 9 and 26 instructions. The polynomials are minimax, fitted with
40 digits. tests/kernels/test_special.py measures the errors against mpmath at 2048 arguments, with exact units and with
units that have random errors as large as the PTX manual allows: 1 ulp for rcp, 2^-22 for ex2 and lg2.

| function | argument | error | exact units | approximate units |
|---|---|---|---|---|
| `reciprocal` | 1 to 4e9 | relative | 1.0e-7 | 1.8e-7 |
| `logarithm` | 1 to 4e9 | relative or absolute, the smaller | 1.2e-7 | 3.4e-7 |
| `log1p_unit` | 1e-8 to 1 | relative | 1.9e-7 | 1.9e-7 |
| `exponential` | -87 to 0 | relative | 3.8e-6 | 4.0e-6 |
| `digamma` | 1 to 1e8 | relative or absolute, the smaller | 1.7e-7 | 3.6e-7 |
| `trigamma` | 1 to 1e8 | relative | 4.4e-7 | 4.7e-7 |
| `concentration` | 1e-6 to 1e8 | relative or absolute, the smaller | 1.5e-7 | 3.5e-7 |
"""

import torch
import triton
import triton.language as tl

from uml_kernels.operation import INTERPRETED

NVIDIA = tl.constexpr(not INTERPRETED and torch.version.hip is None)
"""Whether kernels can contain PTX: not in the interpreter, and not if torch is built for AMD."""

LARGEST = tl.constexpr(1e9)
"""Maximum evidence of a class: products of four strengths must stay finite in float32."""

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)

# (log1p(x) / x) for 0 <= x <= 1, relative error 3e-8
_LOG1P = tl.constexpr(
    (
        0.9999999403953552, -0.4999949336051941, 0.3331909775733948, -0.2484298199415207, 0.19106006622314453,
        -0.13663244247436523, 0.07822594046592712, -0.029505232349038124, 0.005232692696154118,
    )
)  # fmt: skip
# In u = 1 / x for 0 < u <= 1: (ln x - psi(x)) / u, error 4e-8 of psi; (psi'(x) - u) / u^2, relative error 1e-6
_DIGAMMA = tl.constexpr(
    (
        0.5000028014183044, 0.08326400071382523, 0.000584092631470412, -0.010666594840586185, 0.004868865478783846,
        -0.0008374587050639093,
    )
)  # fmt: skip
_TRIGAMMA = tl.constexpr(
    (
        0.5000004768371582, 0.1666143238544464, 0.0009319950477220118, -0.03946369141340256, 0.01840212382376194,
        0.0001907957484945655, -0.001742569380439818,
    )
)  # fmt: skip
# In u = 1 / (1 + w): (V(w) - ln(1 + w) / 2) / (1 - u), error 3e-8 of V
_CONCENTRATION = tl.constexpr(
    (
        0.4189385771751404, 0.08560124039649963, 0.002350782509893179, -0.009402832016348839, 0.0012381140841171145,
        0.0022674964275211096, -0.0009957542642951012,
    )
)  # fmt: skip


@triton.jit
def _polynomial(x, coefficients: tl.constexpr, TERMS: tl.constexpr):
    """Evaluate the sum of coefficients[i] x^i over TERMS coefficients."""
    total = tl.zeros_like(x) + coefficients[TERMS - 1]
    for i in tl.static_range(1, TERMS):
        total = total * x + coefficients[TERMS - 1 - i]
    return total


@triton.jit
def exponential(x):
    """Return exp(x) for x <= 0; 0 below -87."""
    return tl.exp2(x * LOG2_E)


@triton.jit
def reciprocal(x):
    """Return 1 / x for 1 <= x <= 1e36; on NVIDIA by the approximate unit, whose error is 1 ulp."""
    if NVIDIA:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:  # required: Triton also compiles the code after a return
        return 1.0 / x


@triton.jit
def logarithm2(x):
    """Return log2(x) for positive normal x.

    On NVIDIA the error is 2^-22, absolute for x from 0.5 to 2 and relative elsewhere.
    """
    if NVIDIA:
        return tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.log2(x)


@triton.jit
def logarithm(x):
    """Return ln(x) for positive normal x, from `logarithm2`."""
    return logarithm2(x) * LN_2


@triton.jit
def log1p_unit(x):
    """Return log1p(x) for 0 <= x <= 1."""
    return x * _polynomial(x, _LOG1P, 9)


@triton.jit
def remainders(x):
    """Return the remainders of digamma and trigamma for 1 <= x <= 4e9: psi = ln x - first, psi' = u + second.

    Both are positive and decrease like u / 2 and u^2 / 2, so that differences of psi do not cancel (kernels/README.md).

    Returns:
        The two remainders, and u = 1 / x.
    """
    inverse = reciprocal(x)
    first = inverse * _polynomial(inverse, _DIGAMMA, 6)
    return first, inverse * (inverse * _polynomial(inverse, _TRIGAMMA, 7)), inverse


@triton.jit
def digamma(x):
    """Return psi(x) for 1 <= x <= 4e9."""
    first, _, _ = remainders(x)
    return logarithm(x) - first


@triton.jit
def trigamma(x):
    """Return psi'(x) for 1 <= x <= 4e9."""
    _, second, inverse = remainders(x)
    return inverse + second


@triton.jit
def concentration(evidence):
    """Return the terms of KL divergences that depend on one evidence w, 0 <= w <= 4e9.

    Returns:
        r with V(w) = w - w psi(1 + w) + ln Gamma(1 + w) = ln(1 + w) / 2 + r, so that a sum of many V needs only the
        logarithm of one product; w times the second of `remainders(1 + w)`; and u = 1 / (1 + w).
    """
    inverse = reciprocal(evidence + 1.0)
    belief = evidence * inverse
    rest = belief * _polynomial(inverse, _CONCENTRATION, 7)
    return rest, belief * (inverse * _polynomial(inverse, _TRIGAMMA, 7)), inverse
