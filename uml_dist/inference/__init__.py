"""Predictions for files that no shards hold: masks, maps, pictures and a table, in the geometry of each input."""

from .predictions import Predictions, predict
from .settings import PredictSettings

__all__ = ["PredictSettings", "Predictions", "predict"]
