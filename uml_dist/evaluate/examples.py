"""A dozen cases to look at: which ones, and what the recipe predicts for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uml_shards.format.manifest import Manifest, Statistics
from uml_shards.read.stream import Stream
from uml_shards.read.truth import EmptyRule
from uml_shards.sample import IGNORE
from uml_shards.text import shorten

from ..batch import Batch, Prediction
from ..metrics.cases import Cases
from ..metrics.columns import Columns
from .predictor import PredictionSource

COUNT = 12

NAME_LENGTH = 24
"""Longest key or class in the title of a case, in characters."""


@dataclass(frozen=True)
class Example:
    """One case as it is drawn; of a volume, one slice.

    Attributes:
        title: its key, classes and figures.
        wrong: whether the predicted class is not the label.
        image: (H, W, 3), in [0, 1].
        truth: (H, W) uint8 classes with 255 = ignore; None without a mask.
        predicted: (H, W) uint8 classes; None where no pixels are predicted.
        vacuity: (H, W), vacuity of the pixels, in (0, 1].
        maps: further maps (H, W) in [0, 1] by title.
        plane: of a slice of a volume, which one it is, in words; "" of an image.
        aspect: height of a pixel over its width; 1 where it is not known.
    """

    title: str
    wrong: bool
    image: NDArray[np.float32]
    truth: NDArray[np.uint8] | None
    predicted: NDArray[np.uint8] | None
    vacuity: NDArray[np.float32] | None
    maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    plane: str = ""
    aspect: float = 1.0


def choose(cases: Cases, manifest: Manifest, count: int = COUNT) -> Cases:
    """Return as many cases of each image class, from the best to the worst Dice of its cases in even steps.

    By the likelihood of the label where there are no masks, and by the vacuity of the image where there are no labels
    either; equals are in the order of their keys. Cases with nothing to see, neither in the mask nor predicted, or
    without a mask, fill the places that are left, and come last. What a class cannot fill goes to cases of the others.

    Args:
        cases: cases of the split.
        manifest: the split's manifest.
        count: number of cases.

    Returns:
        The chosen cases, best first.
    """
    columns = Columns(cases, manifest, "leave-out")
    score = -np.nan_to_num(columns.column("image_nll" if columns.known.any() else "image_vacuity"), nan=np.inf)
    counted = np.ones(len(cases), dtype=bool)
    if columns.masked.any() and columns.foreground:
        counted = np.isfinite(columns.dice)
        score = np.where(counted, columns.dice, -1.0)
    ranking = sorted(range(len(cases)), key=lambda index: (-score[index], cases.keys[index]))
    best = [index for index in ranking if counted[index]]
    labels = columns.label
    groups = [[index for index in best if labels[index] == k] for k in sorted({int(labels[index]) for index in best})]
    chosen: set[int] = set()
    for number, group in enumerate(groups):
        share = count * (number + 1) // len(groups) - count * number // len(groups)
        chosen |= set(_evenly(group, share))
    for others in (best, ranking):
        chosen |= set(_evenly([index for index in others if index not in chosen], count - len(chosen)))
    return cases.rows([index for index in ranking if index in chosen])


def _evenly(items: Sequence[int], count: int) -> list[int]:
    """Items in even steps from the first to the last; all where there are no more than wanted."""
    if len(items) <= count:
        return list(items)
    return [items[round(step)] for step in np.linspace(0, len(items) - 1, count)]


def predict_examples(
    predictor: PredictionSource,
    stream: Stream,
    cases: Cases,
    batch_size: int,
    empty: EmptyRule = "one",
    all_planes: bool = False,
) -> list[Example]:
    """Predict some cases of a split again, for a picture.

    Args:
        predictor: the recipe with its networks, or the perfect model.
        stream: the split, in its own order.
        cases: the chosen cases.
        batch_size: samples per batch.
        empty: rule for the Dice in the titles.
        all_planes: whether a volume is three examples, one slice along each axis, instead of one along the last.
    """
    examples: list[Example] = []
    axes = (2, 1, 0) if all_planes and stream.split.manifest.dimensions == 3 else (2,)
    positions = cases.columns["position"].tolist() if len(cases) else []
    titles = _titles(Columns(cases, stream.split.manifest, empty))
    for batch, prediction in predictor.predictions(stream, positions, batch_size):
        classes = prediction.pixel_class
        for index in range(len(batch)):
            title = titles[len(examples) // len(axes)]
            examples += [_example(batch, prediction, classes, index, *title, stream, axis) for axis in axes]
    return examples


def _example(
    batch: Batch,
    prediction: Prediction,
    classes: Tensor | None,
    index: int,
    title: str,
    wrong: bool,
    stream: Stream,
    axis: int,
) -> Example:
    truth, predicted = _flat(batch.mask[index], batch), None
    if classes is not None:
        predicted = classes[index]
    elif prediction.lesions is not None:
        predicted = _topmost(prediction.lesions[index])
    has_truth = bool((truth != IGNORE).any())
    slices = _slice(truth if has_truth else predicted, batch, axis)
    vacuity = prediction.pixel_vacuity
    return Example(
        title=title,
        wrong=wrong,
        image=_picture(batch.image[index][:, *slices], batch.image.dim() == 5, stream.statistics),
        truth=truth[slices].cpu().numpy() if has_truth else None,
        predicted=None if predicted is None else predicted[slices].cpu().numpy(),
        vacuity=None if vacuity is None else _array(vacuity[index][slices]),
        maps={name: _array(values[index][slices]) for name, values in prediction.maps.items()},
        plane=_plane(batch, index, slices, axis),
        aspect=_aspect(batch, index, axis),
    )


def _picture(image: Tensor, of_volume: bool, statistics: Statistics) -> NDArray[np.float32]:
    """Return a normalised image (channels, H, W) as (H, W, 3) in [0, 1].

    That is the stored image, of its first three channels or its first one. Volumes can have any range of values: of a
    slice, the first channel is shown, from its 1st to its 99th percentile.
    """
    values = image.float().cpu().numpy().transpose(1, 2, 0)
    if of_volume:
        values = values[..., :1]
        low, high = np.percentile(values, (1, 99))
        values = (values - low) / max(high - low, 1e-6)
    else:
        values = values * np.asarray(statistics.std) + np.asarray(statistics.mean)
    values = np.clip(values, 0.0, 1.0).astype(np.float32)
    return values[..., :3] if values.shape[2] >= 3 else np.repeat(values[..., :1], 3, axis=2)


def _flat(mask: Tensor, batch: Batch) -> Tensor:
    """Return the mask of a sample as one map of classes; of overlapping lesions, the last one of each pixel."""
    if mask.dim() == batch.image.dim() - 2:
        return mask
    return torch.where((mask != IGNORE).any(0), _topmost(mask == 1), IGNORE)


def _topmost(lesions: Tensor) -> Tensor:
    """Return (*S) uint8: number of the last lesion (L, *S) that covers a pixel, from 1 on; 0 for none."""
    numbers = torch.arange(1, len(lesions) + 1, device=lesions.device).view(-1, *(1,) * (lesions.dim() - 1))
    return (lesions * numbers).amax(0).to(torch.uint8)


def _slice(classes: Tensor | None, batch: Batch, axis: int) -> tuple[slice | int, ...]:
    """Return the index of the slice to show: all of an image; of a volume, along an axis, that with most foreground."""
    if batch.image.dim() == 4:
        return (slice(None),) * 2
    place = batch.image.shape[2 + axis] // 2
    if classes is not None:
        areas = ((classes != 0) & (classes != IGNORE)).movedim(axis, 0).flatten(1).sum(1)
        place = int(areas.argmax()) if areas.any() else place
    return (*(slice(None),) * axis, place, *(slice(None),) * (2 - axis))


def _plane(batch: Batch, index: int, slices: tuple[slice | int, ...], axis: int) -> str:
    """Return the name of a slice: its plane where the affine tells the patient's axes, and its number."""
    if batch.image.dim() == 4:
        return ""
    directions = batch.affine[index, :3, axis]
    plane = f"axis {axis + 1}"
    if bool(directions.isfinite().all()) and bool(directions.any()):
        plane = ("sagittal", "coronal", "axial")[int(directions.abs().argmax())]
    place = slices[axis]
    assert isinstance(place, int)
    return f"{plane}, slice {place + 1} of {batch.image.shape[2 + axis]}"


def _aspect(batch: Batch, index: int, axis: int) -> float:
    """Return the height of a pixel over its width: of the axes of a slice, the first one is its height."""
    height, width = (float(batch.spacing[index, one]) for one in range(3) if one != axis)
    known = batch.image.dim() == 5 and height > 0 and width > 0
    return height / width if known else 1.0


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.float().cpu().numpy()


def _titles(columns: Columns) -> list[tuple[str, bool]]:
    """Return each case's title, which has key, label -> predicted class, vacuity and Dice, and whether it is wrong."""
    names = columns.manifest.classes
    titles = []
    for index, key in enumerate(columns.cases.keys):
        parts = [shorten(key, NAME_LENGTH)]
        label = int(columns.label[index])
        wrong = False
        if columns.has("image_nll"):
            number = int(columns.predicted[index])
            wrong = label not in (-1, number)
            known = shorten(names[label], NAME_LENGTH) if label >= 0 else "?"
            parts.append(f"{known} → {shorten(names[number], NAME_LENGTH)} {columns.probability[index, number]:.2f}")
        if columns.has("image_vacuity"):
            parts.append(f"vacuity {columns.column('image_vacuity')[index]:.2f}")
        if columns.masked[index] and columns.foreground:
            dice = columns.dice[index]
            parts.append(f"Dice {dice:.2f}" if np.isfinite(dice) else "Dice left out")
        titles.append(("    ".join(parts), wrong))
    return titles
