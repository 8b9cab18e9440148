"""Predictions as means over the flips of an image."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from itertools import product

from torch import Tensor

from ..batch import Batch, Prediction
from ..evaluate.components import keep_largest
from ..evaluate.predictor import Predictor

_OF_THE_IMAGE = ("image_probability", "image_vacuity")
"""Fields of a prediction without axes of space."""


def predict_flipped(predictor: Predictor, batch: Batch, window: Sequence[int]) -> Prediction:
    """Return the mean of the predictions for all flips of the images: 4 of an image, 8 of a volume.

    Probabilities, vacuity and maps are averaged, and the classes are decided by the mean.

    Args:
        predictor: the recipe with its networks.
        batch: the images.
        window: size of a window.
    """
    plain = replace(predictor, largest_component=False)
    axes = range(2 - batch.image.dim(), 0)
    variants = list(product((False, True), repeat=len(axes)))
    total: Prediction | None = None
    for chosen in variants:
        flipped = [axis for axis, flip in zip(axes, chosen, strict=True) if flip]
        found = plain.predict(replace(batch, image=batch.image.flip(flipped)), window)
        turned = _changed(found, lambda name, values: values if name in _OF_THE_IMAGE else values.flip(flipped))  # noqa: B023
        total = turned if total is None else _sum(total, turned)
    assert total is not None
    mean = _changed(total, lambda _, values: values / len(variants))
    return keep_largest(mean) if predictor.largest_component else mean


def _changed(prediction: Prediction, change: Callable[[str, Tensor], Tensor]) -> Prediction:
    """Return a prediction with other tensors, each changed by its name and value; maps are named as such."""
    named = {one.name: getattr(prediction, one.name) for one in fields(prediction)}
    tensors = {name: change(name, value) for name, value in named.items() if isinstance(value, Tensor)}
    maps = {title: change("maps", values) for title, values in prediction.maps.items()}
    return replace(prediction, **tensors, maps=maps)


def _sum(one: Prediction, other: Prediction) -> Prediction:
    maps = {title: values + other.maps[title] for title, values in one.maps.items()}
    added = _changed(one, lambda name, values: values if name == "maps" else values + getattr(other, name))
    return replace(added, maps=maps)
