"""Evaluation: each sample of a split once, over all ranks, through `Prediction`, so it knows no recipe."""

from .cases import evaluate_split
from .metrics import summarise

__all__ = ["evaluate_split", "summarise"]
