"""The perfect model of generated data, evaluated in place of a network: no model can be expected to score better."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from uml_shards.errors import ShardError
from uml_shards.format.volume import TRUTH as VOLUME_TRUTH
from uml_shards.read.augment import resize_mask
from uml_shards.read.loader import load
from uml_shards.read.samples import Samples
from uml_shards.read.split import Split
from uml_shards.read.stream import Stream
from uml_shards.read.truth import CLASS_PROBABILITY, TRUTH, class_probability, foreground_probability
from uml_shards.sample import Sample

from ..batch import Batch, Prediction, collate
from ..errors import UmlError
from ..recipes import Recipe
from .components import keep_largest


@dataclass(frozen=True)
class Oracle:
    """Predicts the probabilities from which labels and masks were drawn; it has no vacuity.

    Attributes:
        recipe: the recipe whose families of metrics are evaluated.
        largest_component: whether only the largest component of each predicted class is kept.
    """

    recipe: Recipe
    largest_component: bool = False

    @classmethod
    def of(cls, recipe: Recipe, split: Split | Samples) -> "Oracle":
        """Return the oracle of a split, whose predicted classes are chosen as the recipe's configuration states.

        Raises:
            UmlError: the split does not store the probabilities of what is known of its samples.
        """
        _check_truth(split)
        return cls(recipe, recipe.config.evaluation.largest_component)

    def notes(self, stream: Stream) -> Mapping[str, str]:
        """Return what the predictions are: title -> one line."""
        largest = {"classes": "the largest component of each"} if self.largest_component else {}
        return {"ceiling": "predictions are the true probabilities that the generated data store", **largest}

    def predictions(
        self, stream: Stream, positions: Sequence[int], batch_size: int, workers: int = 0
    ) -> Iterator[tuple[Batch, Prediction]]:
        """Yield batches of the samples at some positions of a stream with the predictions; see `Predictor`."""
        size = 1 if stream.whole else batch_size
        requests = [{stream.name: list(positions[start : start + size])} for start in range(0, len(positions), size)]
        for batches in load({stream.name: stream}, requests, collate, workers):
            batch = batches[stream.name]
            found = self._predict(batch, stream)
            yield batch, keep_largest(found) if self.largest_component else found

    def _predict(self, batch: Batch, stream: Stream) -> Prediction:
        manifest, image, pixel = stream.split.manifest, None, None
        if manifest.classes:
            image = torch.stack([_classes(batch, index, len(manifest.classes)) for index in range(len(batch))])
        if manifest.mask_classes:
            foreground = torch.stack([_foreground(batch, index, stream) for index in range(len(batch))])
            pixel = torch.stack([1 - foreground, foreground], 1)
        return Prediction(image_probability=image, pixel_probability=pixel)


def _classes(batch: Batch, index: int, classes: int) -> Tensor:
    """Return the true probabilities (K,) of a sample's classes; all alike for a placeholder."""
    if not batch.weight[index]:
        return torch.full((classes,), 1 / classes)
    sample = Sample(batch.keys[index], np.empty(0), meta=batch.meta[index])
    return torch.from_numpy(class_probability(sample)).float()


def _foreground(batch: Batch, index: int, stream: Stream) -> Tensor:
    """Return the true probability (*S) of the foreground of a sample, in the size of its mask."""
    shape, number = batch.mask.shape[1:], stream.plan.sample(int(batch.position[index]))
    if not batch.weight[index] or number is None:
        return torch.full(shape, 0.5)
    truth = foreground_probability(stream.split, number)
    if truth.ndim == 2:
        # As the mask: the probability of the pixel that a resized mask shows.
        truth = resize_mask(truth, shape)
    return torch.from_numpy(truth)


def _check_truth(split: Split | Samples) -> None:
    """Check that a split stores the probabilities of its labels and masks.

    Raises:
        UmlError: it does not.
    """
    manifest, missing = split.manifest, []
    if manifest.mask_names or manifest.mask_classes:
        stored = {TRUTH, VOLUME_TRUTH} & set(manifest.components)
        missing += [] if stored and len(manifest.mask_classes) == 2 else ["masks"]
    if manifest.classes:
        missing += [] if _stored_classes(split) == len(manifest.classes) else ["classes"]
    if missing or not (manifest.mask_classes or manifest.classes):
        raise UmlError(
            f"{split.path} does not store the true probabilities of its {' and '.join(missing) or 'samples'}: there is "
            "a ceiling of generated data only, such as phantom and phantom3d"
        )


def _stored_classes(split: Split | Samples) -> int:
    """Return the number of classes whose true probabilities the first readable sample stores."""
    for number in range(len(split)):
        with suppress(ShardError):
            stored = split.read(number).meta.get(CLASS_PROBABILITY)
            return len(stored) if isinstance(stored, list) else 0
    return 0
