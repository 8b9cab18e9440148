"""The predictions of windows, added up to that of the images they come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod

import torch
from torch import Tensor

from ..batch import Prediction

METRIC_BYTES = 120
"""Memory per pixel that metrics take beside a prediction; 110 bytes were measured for two classes and for four."""

MAP = "map "
"""Prefix of the titles of further maps among the names of a prediction's tensors."""


@dataclass(frozen=True)
class Place:
    """Where the prediction of a window goes, and how much it counts.

    Attributes:
        sample: number of its image in the batch.
        inside: its pixels in the image.
        weight: weight of its pixels, (*S) float32, on the device of the predictions.
        share: share of the image that it determines; the shares of all windows sum to one.
    """

    sample: int
    inside: tuple[slice, ...]
    weight: Tensor
    share: float


class Blend:
    """The weighted sums of the predictions of windows. They are kept once, on the CPU if the device has no room.

    Args:
        samples: number of images.
        size: (*S), their size.
    """

    def __init__(self, samples: int, size: Sequence[int]) -> None:
        self._samples = samples
        self._size = tuple(size)
        self._sums: dict[str, Tensor] = {}

    def add(self, places: Sequence[Place], prediction: Prediction) -> None:
        """Add the predictions of some windows, one after another, so that the sums do not depend on the device."""
        parts = _parts(prediction)
        if not self._sums:
            self._allocate(parts)
        for row, place in enumerate(places):
            for name, part in parts.items():
                own = self._sums[name][place.sample]
                if self._of_pixels(part):
                    own[(..., *place.inside)] += (part[row] * place.weight).to(own.device)
                else:
                    own += (part[row] * place.share).to(own.device)

    def prediction(self, inside: Sequence[slice]) -> Prediction:
        """Return the blended prediction of a part of the images."""
        cut = {name: sums[(..., *inside)] if self._of_pixels(sums) else sums for name, sums in self._sums.items()}
        maps = {name.removeprefix(MAP): part for name, part in cut.items() if name.startswith(MAP)}
        tensors = {name: part for name, part in cut.items() if not name.startswith(MAP)}
        return Prediction(**tensors, maps=maps, thresholds=None)

    def _of_pixels(self, part: Tensor) -> bool:
        """Whether a tensor (B, ..., *S) has values of pixels, unlike one of (B,) or (B, K) values of images."""
        return part.dim() > len(self._size)

    def _allocate(self, parts: Mapping[str, Tensor]) -> None:
        shapes = {name: tuple(part.shape[1:]) for name, part in parts.items()}
        for name, part in parts.items():
            if self._of_pixels(part):
                shapes[name] = (*part.shape[1 : -len(self._size)], *self._size)
        values = sum(prod(shape) for shape in shapes.values())
        needed = self._samples * (4 * values + METRIC_BYTES * prod(self._size))
        device = next((device_with_room(needed, part.device) for part in parts.values()), None)
        self._sums = {name: torch.zeros((self._samples, *shape), device=device) for name, shape in shapes.items()}


def device_with_room(needed: int, device: torch.device) -> torch.device:
    """Return the device, or the CPU if fewer bytes than needed are free on it."""
    if device.type != "cuda":
        return device
    free = torch.cuda.mem_get_info(device)[0]
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # kept by torch for reuse
    return device if needed <= free else torch.device("cpu")


def _parts(prediction: Prediction) -> Mapping[str, Tensor]:
    """Return all tensors of a prediction by name."""
    assert prediction.cleaned is None, "the classes of windows cannot be blended, their probabilities can"
    values = {field.name: getattr(prediction, field.name) for field in fields(prediction)}
    parts = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    return parts | {MAP + title: value for title, value in prediction.maps.items()}
