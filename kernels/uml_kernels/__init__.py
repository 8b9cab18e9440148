"""Fused operations of evidential deep learning: losses and opinions of Dirichlet evidence."""

from uml_kernels.combined import CombinedLoss, TermWeights, combined_loss
from uml_kernels.cpu.compiled import use_compiled
from uml_kernels.dice import DiceSums
from uml_kernels.evidential import EvidentialSums, evidential_loss, evidential_sums
from uml_kernels.gating import gated
from uml_kernels.levels import LevelSums, level_sums
from uml_kernels.opinion import EvidenceKind, Opinion, PredictiveMaps, opinion, predictive_maps
from uml_kernels.resizing import resized

__version__ = "0.2.0"

__all__ = [
    "CombinedLoss",
    "DiceSums",
    "EvidenceKind",
    "EvidentialSums",
    "LevelSums",
    "Opinion",
    "PredictiveMaps",
    "TermWeights",
    "combined_loss",
    "evidential_loss",
    "evidential_sums",
    "gated",
    "level_sums",
    "opinion",
    "predictive_maps",
    "resized",
    "use_compiled",
]
