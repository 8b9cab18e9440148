"""Evaluation: each sample of a split once, over all ranks, through `Prediction`, so it is independent of the recipe."""

from ..metrics.summary import summarise
from .evaluation import Evaluation, evaluate, evaluate_split
from .oracle import Oracle
from .predictor import PredictionSource, Predictor

__all__ = ["Evaluation", "Oracle", "PredictionSource", "Predictor", "evaluate", "evaluate_split", "summarise"]
