"""Fused operations of evidential deep learning: losses and opinions of Dirichlet evidence."""

from uml_kernels.combined import CombinedLoss, TermWeights, combined_loss
from uml_kernels.consistency import ConsistencySums, consistency_sums
from uml_kernels.cpu.compiled import use_compiled
from uml_kernels.dice import DiceSums
from uml_kernels.distance import distance, signed_distance
from uml_kernels.evidential import EvidentialSums, evidential_loss, evidential_sums
from uml_kernels.gating import gated
from uml_kernels.levels import LevelSums, level_sums
from uml_kernels.opinion import EvidenceKind, Opinion, PredictiveMaps, opinion, predictive_maps
from uml_kernels.passes import add_probability, passes_entropy
from uml_kernels.resizing import resized

__version__ = "0.2.0"

__all__ = [
    "CombinedLoss",
    "ConsistencySums",
    "DiceSums",
    "EvidenceKind",
    "EvidentialSums",
    "LevelSums",
    "Opinion",
    "PredictiveMaps",
    "TermWeights",
    "add_probability",
    "combined_loss",
    "consistency_sums",
    "distance",
    "evidential_loss",
    "evidential_sums",
    "gated",
    "level_sums",
    "opinion",
    "passes_entropy",
    "predictive_maps",
    "resized",
    "signed_distance",
    "use_compiled",
]
