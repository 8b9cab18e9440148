"""Evaluation: each sample of a split once, over all ranks, through `Prediction`, so it knows no recipe."""

from .cases import Predictor, evaluate_split
from .metrics import summarise

__all__ = ["Predictor", "evaluate_split", "summarise"]
