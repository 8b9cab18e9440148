"""One uncertainty of an image from those of its pixels, by three aggregations."""

from collections.abc import Mapping
from math import log

import torch
from torch import Tensor

from ..batch import Prediction
from .borders import border

THRESHOLD = 0.5
"""Uncertainty of a pixel above which it counts, in [0, 1]: half of the evidence of a flat prior between two classes."""

AGGREGATIONS: Mapping[str, str] = {
    "mean": "mean over the pixels",
    "above": f"share of the pixels above {THRESHOLD}",
    "border": "mean over the pixels that touch another predicted class, or over all pixels where only one is predicted",
}
"""How the uncertainties of the pixels become one of the image. Which of them is used decides how well it works."""

UNCERTAINTIES = ("vacuity", "entropy")


def column_of(uncertainty: str, aggregation: str) -> str:
    """Return the name of the column of an uncertainty under an aggregation."""
    return f"map_{uncertainty}_{aggregation}"


def image_scores(prediction: Prediction) -> dict[str, Tensor]:
    """Return the uncertainties (B,) of images from their maps, by `column_of`; empty without maps.

    All pixels count, also those whose mask is to be ignored: who uses the prediction has no mask.
    """
    maps = {name: values for name, values in _maps(prediction).items() if values is not None}
    if not maps:
        return {}
    along = _predicted_border(prediction).flatten(1)
    number = along.sum(1)
    scores: dict[str, Tensor] = {}
    for name, values in maps.items():
        flat = values.float().flatten(1)
        mean = flat.mean(1)
        sums = torch.where(along, flat, 0.0).sum(1)
        scores[column_of(name, "mean")] = mean
        scores[column_of(name, "above")] = (flat > THRESHOLD).float().mean(1)
        scores[column_of(name, "border")] = torch.where(number > 0, sums / number.clamp(min=1), mean)
    return scores


def _maps(prediction: Prediction) -> dict[str, Tensor | None]:
    """Return the maps (B, *S) of uncertainties in [0, 1]; the entropy is divided by the largest, ln C."""
    entropy = None
    if prediction.pixel_entropy is not None and prediction.pixel_probability is not None:
        classes = prediction.pixel_probability.shape[1]
        entropy = prediction.pixel_entropy / log(classes) if classes > 1 else None
    elif prediction.lesion_probability is not None:
        probability = prediction.lesion_probability.float()
        entropy = (torch.special.entr(probability) + torch.special.entr(1.0 - probability)).mean(1) / log(2.0)
    return {"vacuity": prediction.pixel_vacuity, "entropy": entropy}


def _predicted_border(prediction: Prediction) -> Tensor:
    """Return (B, *S) bool: the pixels that touch another predicted class, at a face, an edge or a corner."""
    if prediction.pixel_class is not None:
        return border(prediction.pixel_class)
    lesions = prediction.lesions
    assert lesions is not None, "a prediction with maps of uncertainty has pixel classes or lesions"
    return border(lesions.flatten(0, 1)).view(lesions.shape).any(1)
