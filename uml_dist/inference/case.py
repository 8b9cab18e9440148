"""The prediction for one case: figures, and maps on the pixels of the input."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uml_shards.format.manifest import Manifest

from ..batch import Prediction
from .reading import Ready
from .sources import Source


@dataclass(frozen=True)
class Classes:
    """Names of what a run predicts.

    Attributes:
        image: the image classes.
        pixel: the pixel classes, background first.
        lesions: the lesions, which may overlap.
    """

    image: tuple[str, ...] = ()
    pixel: tuple[str, ...] = ()
    lesions: tuple[str, ...] = ()

    @classmethod
    def of(cls, manifests: Iterable[Manifest]) -> "Classes":
        """Return the names that the data of a run's streams state: each kind by the first one that has any."""
        found = list(manifests)

        def first(kind: str) -> tuple[str, ...]:
            return next((names for manifest in found if (names := getattr(manifest, kind))), ())

        return cls(first("classes"), first("mask_classes"), first("mask_names"))


@dataclass(frozen=True)
class Case:
    """The prediction for one case.

    Maps are brought onto the pixels or voxels of the input when they are asked for, so a case takes little memory.

    Attributes:
        ready: the case as the network saw it.
        prediction: the prediction, a batch of one on the CPU.
        classes: names of the classes.
    """

    ready: Ready
    prediction: Prediction
    classes: Classes

    @property
    def source(self) -> Source:
        """Where the case comes from."""
        return self.ready.source

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) of the input, or its three axes as stored."""
        return self.ready.geometry.shape

    @property
    def probability(self) -> dict[str, float]:
        """Image class -> probability; empty if the run predicts none."""
        found = self.prediction.image_probability
        return {} if found is None else dict(zip(self.classes.image, found[0].tolist(), strict=True))

    @property
    def image_vacuity(self) -> float | None:
        """Vacuity of the image's class, in (0, 1]."""
        return _number(self.prediction.image_vacuity)

    @property
    def image_entropy(self) -> float | None:
        """Entropy of the image's class in nats."""
        return _number(self.prediction.image_entropy)

    @property
    def pixel_vacuity(self) -> float | None:
        """Mean vacuity of the pixels that were predicted."""
        found = self.prediction.pixel_vacuity
        return None if found is None else float(found.double().mean())

    @property
    def pixel_entropy(self) -> float | None:
        """Mean entropy in nats of the pixels that were predicted; of lesions, the mean over them too."""
        if self.prediction.pixel_entropy is not None:
            return float(self.prediction.pixel_entropy.double().mean())
        lesion = self.prediction.lesion_probability
        return None if lesion is None else float(_entropy_of(lesion.double()).mean())

    @cached_property
    def mask(self) -> NDArray[np.uint8] | None:
        """(*S) uint8, the class of each pixel of the input; None if the run predicts no pixel classes."""
        found = self.prediction
        if found.cleaned is not None:
            return self.ready.geometry.restore_classes(found.cleaned[0])
        if found.pixel_probability is None:
            return None
        if tuple(found.pixel_probability.shape[2:]) == self.shape:
            classes = found.pixel_class
            assert classes is not None
            return self.ready.geometry.restore_classes(classes[0])
        best = self.pixel_probability(0)
        mask = np.zeros(best.shape, np.uint8)
        for number in range(1, found.pixel_probability.shape[1]):
            probability = self.pixel_probability(number)
            larger = probability > best
            mask[larger] = number
            best = np.maximum(best, probability)
        return mask

    def lesion_mask(self, number: int) -> NDArray[np.bool_]:
        """(*S) bool, the pixels of a lesion."""
        least = 0.5 if self.prediction.thresholds is None else self.prediction.thresholds[number]
        return self.lesion_probability(number) >= np.float32(least)

    def pixel_probability(self, number: int) -> NDArray[np.float32]:
        """(*S) float32, the probability of a pixel class."""
        found = self.prediction.pixel_probability
        assert found is not None
        return self.ready.geometry.restore(found[0, number], outside=float(number == 0))

    def lesion_probability(self, number: int) -> NDArray[np.float32]:
        """(*S) float32, the probability of a lesion."""
        found = self.prediction.lesion_probability
        assert found is not None
        return self.ready.geometry.restore(found[0, number], outside=0.0)

    def probability_maps(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield the maps of all foreground classes, or of all lesions, by name."""
        for number, name in enumerate(self.classes.pixel):
            if number and self.prediction.pixel_probability is not None:
                yield name, self.pixel_probability(number)
        for number, name in enumerate(self.classes.lesions):
            if self.prediction.lesion_probability is not None:
                yield name, self.lesion_probability(number)

    @property
    def vacuity(self) -> NDArray[np.float32] | None:
        """(*S) float32, the vacuity of each pixel; 1 where none was predicted."""
        found = self.prediction.pixel_vacuity
        return None if found is None else self.ready.geometry.restore(found[0], outside=1.0)

    def maps(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield the recipe's own maps by title, in [0, 1]."""
        for title, values in self.prediction.maps.items():
            yield title, self.ready.geometry.restore(values[0], outside=0.0)

    def areas(self) -> dict[str, int]:
        """Return foreground class or lesion -> pixels or voxels of the input that it has."""
        if (mask := self.mask) is not None:
            counts = np.bincount(mask.ravel(), minlength=len(self.classes.pixel))
            return {name: int(counts[number]) for number, name in enumerate(self.classes.pixel) if number}
        if self.prediction.lesion_probability is None:
            return {}
        return {name: int(self.lesion_mask(number).sum()) for number, name in enumerate(self.classes.lesions)}

    @property
    def uncertainty_map(self) -> tuple[str, Tensor] | None:
        """Title and map (*S) in [0, 1], in the size that was predicted; None where no pixels are predicted.

        The vacuity, or else the entropy as a fraction of the largest possible; of lesions, that of the least certain.
        """
        found = self.prediction
        if found.pixel_vacuity is not None:
            return "vacuity", found.pixel_vacuity[0]
        if found.pixel_entropy is not None:
            assert found.pixel_probability is not None
            return "entropy", found.pixel_entropy[0] / log(max(found.pixel_probability.shape[1], 2))
        if found.lesion_probability is not None:
            return "entropy", _entropy_of(found.lesion_probability[0]).amax(0) / log(2)
        return None


def rows_of(prediction: Prediction) -> Iterator[Prediction]:
    """Yield the predictions for the cases of a batch one by one, on the CPU."""
    moved: dict[str, Tensor | None] = {}
    for one in fields(prediction):
        value = getattr(prediction, one.name)
        if isinstance(value, Tensor):
            moved[one.name] = value.cpu()
    maps: Mapping[str, Tensor] = {title: values.cpu() for title, values in prediction.maps.items()}
    size = len(next(iter([*moved.values(), *maps.values()]), ()))  # type: ignore[arg-type]
    for row in range(size):
        own = {name: value[row : row + 1] for name, value in moved.items() if value is not None}
        yield replace(prediction, **own, maps={title: values[row : row + 1] for title, values in maps.items()})


def _entropy_of(probability: Tensor) -> Tensor:
    return torch.special.entr(probability) + torch.special.entr(1 - probability)


def _number(values: Tensor | None) -> float | None:
    return None if values is None else float(values[0])
