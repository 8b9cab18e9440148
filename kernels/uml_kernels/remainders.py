"""Digamma and trigamma for arguments >= 1, split so that their differences do not cancel.

With t = x + SHIFT, recurrence and asymptotic series give psi(x) = ln t - `digamma_remainder`(x) and
psi'(x) = 1/t + `trigamma_remainder`(x). Both remainders are sums of small positive terms, so what is left to a
difference psi(x + d) - psi(x) is log1p(d / t), and to psi'(x) - psi'(x + d) it is d / (t (t + d)): no cancellation.

Source: Abramowitz and Stegun, 6.3.5, 6.3.18, 6.4.6, 6.4.12, 6.1.40.
"""

import torch
from torch import Tensor

# Shift and number of series terms: in float32 the first term left out is below 1e-8 at x = 1, in float64 below 1e-17.
_SINGLE, _DOUBLE = (3, 4), (10, 8)
# B_2n / 2n
_DIGAMMA = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12, -3617 / 8160)
# B_2n
_TRIGAMMA = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)
# B_2n / (2n (2n - 1))
_LOG_GAMMA = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400)


def _precision(x: Tensor) -> tuple[int, int]:
    return _DOUBLE if x.dtype == torch.float64 else _SINGLE


def shift(x: Tensor) -> int:
    """The SHIFT of the recurrence for x's dtype: t = x + SHIFT."""
    return _precision(x)[0]


def _series(coefficients: tuple[float, ...], square: Tensor, terms: int) -> Tensor:
    total = torch.full_like(square, coefficients[terms - 1])
    for coefficient in reversed(coefficients[: terms - 1]):
        total = total * square + coefficient
    return total


def digamma_remainder(x: Tensor) -> Tensor:
    """The positive ln(x + SHIFT) - psi(x), elementwise, float32 or float64, x >= 1."""
    steps, terms = _precision(x)
    inverse = 1 / (x + steps)
    square = inverse * inverse
    total = inverse * 0.5 + square * _series(_DIGAMMA, square, terms)
    for step in range(steps):
        total = total + 1 / (x + step)
    return total


def trigamma_remainder(x: Tensor) -> Tensor:
    """The positive psi'(x) - 1 / (x + SHIFT), elementwise, float32 or float64, x >= 1."""
    steps, terms = _precision(x)
    inverse = 1 / (x + steps)
    square = inverse * inverse
    total = square * (0.5 + inverse * _series(_TRIGAMMA, square, terms))
    for step in range(steps):
        total = total + 1 / (x + step).square()
    return total


def concentration(evidence: Tensor) -> Tensor:
    """V(e) = e - e psi(1 + e) + ln Gamma(1 + e), elementwise, e >= 0: 0 at 0, then rising as (ln e) / 2.

    Each logarithm but the first is of a ratio between 1 and i / (SHIFT + 1), so that no large logarithms cancel.
    """
    steps, terms = _precision(evidence)
    top = evidence + (steps + 1)
    total = 0.5 * torch.log1p(evidence / (steps + 1)) + evidence * digamma_remainder(evidence + 1)
    for i in range(1, steps + 1):
        total = total + torch.log1p(evidence / (evidence + i) * ((i - steps - 1) / (steps + 1)))

    def tail(t: Tensor) -> Tensor:
        return _series(_LOG_GAMMA, 1 / (t * t), terms) / t

    return total + tail(top) - tail(torch.full_like(top[..., :1], steps + 1))


def concentration_slopes(evidence: Tensor) -> tuple[Tensor, Tensor]:
    """V'(e) = 1 - e psi'(1 + e), and 1 - V'(e), each without the cancellation of the other, elementwise."""
    top = evidence + (shift(evidence) + 1)
    rest = evidence * trigamma_remainder(evidence + 1)
    return (shift(evidence) + 1) / top - rest, evidence / top + rest
