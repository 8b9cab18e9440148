"""Evaluation: each sample of a split once, over all ranks, through `Prediction`, so it is independent of the recipe."""

from ..metrics.summary import summarise
from .evaluation import Evaluation, evaluate, evaluate_split
from .predictor import Predictor

__all__ = ["Evaluation", "Predictor", "evaluate", "evaluate_split", "summarise"]
