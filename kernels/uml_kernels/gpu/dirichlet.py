"""Loss and gradient of a pixel's Dirichlet distribution, in registers, without cancellation (kernels/README.md)."""

import triton
import triton.language as tl

from uml_kernels.special import concentration, logarithm, reciprocal, remainders

from .evidence import total


@triton.jit
def _others(values, C: tl.constexpr):
    """Return for each of C >= 2 values the sum of the others, never computed as a difference."""
    before = (values[0],)
    for c in tl.static_range(1, C - 1):
        before += (before[c - 1] + values[c],)
    after, reversed_sums = values[C - 1], (before[C - 2],)
    for i in tl.static_range(1, C - 1):
        reversed_sums += (before[C - 2 - i] + after,)
        after += values[C - 1 - i]
    result = (after,)
    for i in tl.static_range(C - 1):
        result += (reversed_sums[C - 2 - i],)
    return result


@triton.jit
def kl_of_wrong(wrong, N: tl.constexpr, C: tl.constexpr):
    """Return the KL to the uniform Dirichlet of C classes, of which N have evidence, and its N derivatives.

    KL = sum over i < C of kappa(W / i) + V(W) - sum of V(w), kappa(x) = log1p(x) - x / (1 + x); for N = 1, V cancels.
    """
    zero = tl.zeros_like(wrong[0])
    everything = total(wrong, N)
    if N == 1:  # C = 2
        inverse = reciprocal(everything + 1.0)
        share = everything * inverse
        return logarithm(everything + 1.0) - share, (share * inverse,)
    else:  # required: Triton also compiles the code after a return
        kl, rising, inverse_all = concentration(everything)
        inverse, slope, product = inverse_all, zero - rising, zero + 1.0
        for i in tl.static_range(1, C):
            if i > 1:
                inverse = reciprocal(everything + i)
            share = everything * inverse
            kl -= share
            slope += share * inverse
            product *= 1.0 + everything * (1.0 / i)
            if i % 3 == 0 or i == C - 1:  # more factors of up to 2e10 would overflow
                kl += logarithm(product)
                product = zero + 1.0
        rest, slopes, product = _others(wrong, N), (), everything + 1.0
        for n in tl.static_range(N):
            part, rising, inverse = concentration(wrong[n])
            kl -= part
            slopes += (slope + rising - rest[n] * (inverse * inverse_all),)
            product *= inverse
            if n % 3 == 2 or n == N - 1:
                kl += 0.5 * logarithm(product)
                product = zero + 1.0
        return kl, slopes


@triton.jit
def is_class(target, c: tl.constexpr, C: tl.constexpr):
    """Return whether a class index from 0 to C - 1 is c, using only the C - 1 comparisons that `hard_pixel` needs."""
    if c == 0:
        return target <= 0
    elif c == C - 1:  # required: Triton also compiles the code after a return
        return target > C - 2
    else:
        return target == c


@triton.jit
def hard_pixel(evidence, target, C: tl.constexpr):
    """Return expected cross-entropy and KL for the class index `target`, the C derivatives of each, and 1 / S."""
    own, wrong = evidence[0], ()
    for c in tl.static_range(1, C):
        own = tl.where(is_class(target, c, C), evidence[c], own)
    own += 1.0
    for c in tl.static_range(C - 1):
        wrong += (tl.where(target <= c, evidence[c + 1], evidence[c]),)
    kl, kl_slopes = kl_of_wrong(wrong, C - 1, C)
    rest = total(wrong, C - 1) + (C - 1.0)
    first_own, second_own, inverse_own = remainders(own)
    first, second, inverse = remainders(own + rest)
    ratio = rest * inverse_own  # psi(S) - psi(a) = log1p((S - a) / a) + remainders
    cross_entropy = logarithm(1.0 + ratio) + (first_own - first)
    for_own, for_others = second - second_own - ratio * inverse, second + inverse
    slopes, all_kl_slopes = (), ()
    for c in tl.static_range(C):
        slopes += (tl.where(is_class(target, c, C), for_own, for_others),)
        kl_slope = 0.0  # the value for the target's class
        if c < C - 1:
            kl_slope = tl.where(target <= c, 0.0, kl_slopes[c])
        if c > 0:
            kl_slope = tl.where(target <= c - 1, kl_slopes[c - 1], kl_slope)
        all_kl_slopes += (kl_slope,)
    return cross_entropy, kl, slopes, all_kl_slopes, inverse


@triton.jit
def soft_pixel(evidence, target, C: tl.constexpr):
    """Return the same values as `hard_pixel` for a tuple of C soft labels."""
    zero = tl.zeros_like(evidence[0])
    alphas, wrong = (), ()
    for c in tl.static_range(C):
        alphas += (evidence[c] + 1.0,)
        wrong += (evidence[c] * (1.0 - target[c]),)
    kl, kl_slopes = kl_of_wrong(wrong, C, C)
    shares = total(target, C)
    rest = _others(alphas, C)
    first, second, inverse = remainders(total(alphas, C))
    cross_entropy, slopes, all_kl_slopes = zero, (), ()
    for c in tl.static_range(C):
        first_own, second_own, inverse_own = remainders(alphas[c])
        ratio = rest[c] * inverse_own
        cross_entropy += target[c] * (logarithm(1.0 + ratio) + (first_own - first))
        own = second - second_own - ratio * inverse
        slopes += ((shares - target[c]) * (second + inverse) + target[c] * own,)
        all_kl_slopes += ((1.0 - target[c]) * kl_slopes[c],)
    return cross_entropy, kl, slopes, all_kl_slopes, inverse
