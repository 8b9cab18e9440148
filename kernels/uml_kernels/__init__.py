"""Fused operations of evidential deep learning: losses and opinions of Dirichlet evidence."""

from uml_kernels.dice import DiceSums, DiceTarget, dice_sums
from uml_kernels.evidential import evidential_loss, expected_cross_entropy, kl_to_uniform
from uml_kernels.opinion import EvidenceKind, Opinion, evidence, opinion

__all__ = [
    "DiceSums",
    "DiceTarget",
    "EvidenceKind",
    "Opinion",
    "dice_sums",
    "evidence",
    "evidential_loss",
    "expected_cross_entropy",
    "kl_to_uniform",
    "opinion",
]
