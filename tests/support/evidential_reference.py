"""The evidential losses and their gradients in 60 digits, straight from their definitions (spec sections 2.1, 2.2)."""

from mpmath import loggamma, mp, mpf, psi

mp.dps = 60


def expected_cross_entropy(evidence, target):
    """psi(S) - psi(alpha_y), and its gradient with respect to the evidence."""
    alpha = [mpf(e) + 1 for e in evidence]
    strength = sum(alpha)
    gradient = [psi(1, strength) - (psi(1, a) if i == target else 0) for i, a in enumerate(alpha)]
    return psi(0, strength) - psi(0, alpha[target]), gradient


def kl_to_uniform(evidence, target):
    """KL(Dir(alpha~) || Dir(1)), and its gradient with respect to the evidence."""
    alpha = [mpf(1) if i == target else mpf(e) + 1 for i, e in enumerate(evidence)]
    strength, classes = sum(alpha), len(alpha)
    value = loggamma(strength) - loggamma(classes) - sum(loggamma(a) for a in alpha)
    value += sum((a - 1) * (psi(0, a) - psi(0, strength)) for a in alpha)
    slope = (strength - classes) * psi(1, strength)
    gradient = [0 if i == target else (a - 1) * psi(1, a) - slope for i, a in enumerate(alpha)]
    return value, gradient
