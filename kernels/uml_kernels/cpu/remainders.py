"""Digamma and trigamma for arguments >= 1, split so that their differences do not cancel.

With t = x + SHIFT, psi(x) = ln t - `digamma_remainder`(x) and psi'(x) = 1 / t + `trigamma_remainder`(x). Both
remainders are small and positive. The main part of psi(x + d) - psi(x) is then log1p(d / t), and that of psi'(x) -
psi'(x + d) is d / (t (t + d)), without cancellation.

In float32 SHIFT is 0 and the remainders are the kernels' minimax polynomials in 1 / x (`uml_kernels.special`). In
float64 SHIFT is 10, and the remainders come from the recurrence and the asymptotic series (Abramowitz and Stegun,
6.3.5, 6.3.18, 6.4.6, 6.4.12, 6.1.40), whose first omitted term is below 1e-17 at x = 1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

DOUBLE_SHIFT = 10
# B_2n / 2n
_DIGAMMA = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12, -3617 / 8160)
# B_2n
_TRIGAMMA = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)
# B_2n / (2n (2n - 1))
_LOG_GAMMA = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400)

# Copied from uml_kernels.special, which cannot be imported without Triton; a test checks that they are equal.
LOG1P = (
    0.9999999403953552, -0.4999949336051941, 0.3331909775733948, -0.2484298199415207, 0.19106006622314453,
    -0.13663244247436523, 0.07822594046592712, -0.029505232349038124, 0.005232692696154118,
)  # fmt: skip
DIGAMMA = (
    0.5000028014183044, 0.08326400071382523, 0.000584092631470412, -0.010666594840586185, 0.004868865478783846,
    -0.0008374587050639093,
)  # fmt: skip
TRIGAMMA = (
    0.5000004768371582, 0.1666143238544464, 0.0009319950477220118, -0.03946369141340256, 0.01840212382376194,
    0.0001907957484945655, -0.001742569380439818,
)  # fmt: skip
CONCENTRATION = (
    0.4189385771751404, 0.08560124039649963, 0.002350782509893179, -0.009402832016348839, 0.0012381140841171145,
    0.0022674964275211096, -0.0009957542642951012,
)  # fmt: skip


def shifted(x: Tensor) -> Tensor:
    """Return t = x + SHIFT, with the SHIFT of x's dtype."""
    return x + DOUBLE_SHIFT if x.dtype == torch.float64 else x


def polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """Evaluate the sum of coefficients[i] x^i in place in one new tensor."""
    total = x * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        total.add_(coefficient).mul_(x)
    return total.add_(coefficients[0])


def digamma_remainder(x: Tensor) -> Tensor:
    """Compute ln(x + SHIFT) - psi(x) > 0 elementwise for x >= 1, float32 or float64."""
    inverse = 1 / shifted(x)
    if x.dtype != torch.float64:
        return polynomial(DIGAMMA, inverse).mul_(inverse)
    square = inverse * inverse
    total = inverse * 0.5 + square * polynomial(_DIGAMMA, square)
    for step in range(DOUBLE_SHIFT):
        total = total + 1 / (x + step)
    return total


def trigamma_remainder(x: Tensor) -> Tensor:
    """Compute psi'(x) - 1 / (x + SHIFT) > 0 elementwise for x >= 1, float32 or float64."""
    inverse = 1 / shifted(x)
    if x.dtype != torch.float64:
        return polynomial(TRIGAMMA, inverse).mul_(inverse).mul_(inverse)
    square = inverse * inverse
    total = square * (0.5 + inverse * polynomial(_TRIGAMMA, square))
    for step in range(DOUBLE_SHIFT):
        total = total + 1 / (x + step).square()
    return total


def concentration(evidence: Tensor) -> Tensor:
    """Compute V(e) = e - e psi(1 + e) + ln Gamma(1 + e) elementwise for e >= 0: 0 at 0, growing like (ln e) / 2.

    In float64 the argument of each logarithm except the first is between i / (SHIFT + 1) and 1, so that no large
    logarithms cancel.
    """
    if evidence.dtype != torch.float64:
        inverse = 1 / (1 + evidence)
        return polynomial(CONCENTRATION, inverse).mul_(evidence).mul_(inverse).add_(torch.log1p(evidence), alpha=0.5)
    first = DOUBLE_SHIFT + 1
    top = evidence + first
    total = 0.5 * torch.log1p(evidence / first) + evidence * digamma_remainder(evidence + 1)
    for i in range(1, first):
        total = total + torch.log1p(evidence / (evidence + i) * ((i - first) / first))

    def tail(t: Tensor) -> Tensor:
        return polynomial(_LOG_GAMMA, 1 / (t * t)) / t

    return total + tail(top) - tail(torch.full_like(top[..., :1], first))


def concentration_slopes(evidence: Tensor) -> tuple[Tensor, Tensor]:
    """Compute V'(e) = 1 - e psi'(1 + e) and 1 - V'(e) elementwise, both without cancellation."""
    alpha = evidence + 1
    inverse, rest = 1 / shifted(alpha), evidence * trigamma_remainder(alpha)
    lost = DOUBLE_SHIFT + 1 if evidence.dtype == torch.float64 else 1
    return lost * inverse - rest, evidence * inverse + rest
