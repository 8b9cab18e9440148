"""A dozen cases to look at: which ones, and what the recipe says of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uml_shards.format.manifest import Manifest
from uml_shards.read.stream import Stream
from uml_shards.read.truth import EmptyRule

from ..batch import Batch, Prediction
from .cases import Case, Predictor
from .columns import Columns

COUNT = 12


@dataclass(frozen=True)
class Example:
    """One case as it is drawn.

    Attributes:
        title: its key, classes and figures.
        wrong: whether the predicted class is not the label.
        image: (H, W, 3), in [0, 1].
        truth: (H, W) uint8 classes with 255 = ignore; None without a mask.
        predicted: (H, W) uint8 classes; None where no pixels are predicted.
        vacuity: (H, W), of the pixels, in (0, 1].
        reliable: (H, W) in [0, 1], how strongly the reliable mask says that a pixel is not background.
    """

    title: str
    wrong: bool
    image: NDArray[np.float32]
    truth: NDArray[np.uint8] | None
    predicted: NDArray[np.uint8] | None
    vacuity: NDArray[np.float32] | None
    reliable: NDArray[np.float32] | None


def choose(cases: Sequence[Case], manifest: Manifest, empty: EmptyRule = "one", count: int = COUNT) -> list[Case]:
    """Cases for a sheet: as many of each image class, from the best to the worst Dice of its cases in even steps.

    By the likelihood of the label where there are no masks; equals are in the order of their keys. Cases without a Dice
    come last. What a class cannot fill goes to cases of the others.

    Args:
        cases: of the split.
        manifest: of the split.
        empty: the rule for classes that are neither in a mask nor predicted.
        count: cases wanted.

    Returns:
        The chosen ones, best first.
    """
    columns = Columns(cases, manifest, empty)
    score = -np.nan_to_num(columns.column("image_nll"), nan=np.inf)
    if columns.masked.any() and len(manifest.mask_classes) > 1:
        score = np.nan_to_num(columns.dice, nan=-1.0)
    ranking = sorted(range(len(cases)), key=lambda index: (-score[index], cases[index]["key"]))
    groups = [[index for index in ranking if columns.label[index] == k] for k in sorted(set(columns.label.tolist()))]
    chosen: set[int] = set()
    for number, group in enumerate(groups):
        share = count * (number + 1) // len(groups) - count * number // len(groups)
        chosen |= set(_evenly(group, share))
    rest = [index for index in ranking if index not in chosen]
    chosen |= set(_evenly(rest, count - len(chosen)))
    return [cases[index] for index in ranking if index in chosen]


def _evenly(items: Sequence[int], count: int) -> list[int]:
    """Items in even steps from the first to the last; all where there are no more than wanted."""
    if len(items) <= count:
        return list(items)
    return [items[round(step)] for step in np.linspace(0, len(items) - 1, count)]


def predict_examples(
    predictor: Predictor, stream: Stream, cases: Sequence[Case], batch_size: int, empty: EmptyRule = "one"
) -> list[Example]:
    """What the recipe predicts for some cases of a split.

    Args:
        predictor: that evaluated them.
        stream: the split, in its own order.
        cases: of it.
        batch_size: samples at once.
        empty: the rule for the Dice in their titles.
    """
    examples: list[Example] = []
    positions = [int(case["position"]) for case in cases]
    for batch, prediction in predictor.predictions(stream, positions, batch_size):
        for index in range(len(batch)):
            examples.append(_example(batch, prediction, index, cases[len(examples)], stream, empty))
    return examples


def _example(batch: Batch, prediction: Prediction, index: int, case: Case, stream: Stream, empty: EmptyRule) -> Example:
    manifest, statistics = stream.split.manifest, stream.statistics
    pixels, mask = prediction.pixel_probability, batch.mask[index]
    image = batch.image[index].float().cpu().numpy().transpose(1, 2, 0)
    image = np.clip(image * np.asarray(statistics.std) + np.asarray(statistics.mean), 0.0, 1.0).astype(np.float32)
    title, wrong = _title(case, manifest, empty)
    has_truth = mask.dim() == 2 and bool((mask != 255).any())
    scores = prediction.reliable_mask
    return Example(
        title=title,
        wrong=wrong,
        image=image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2),
        truth=mask.cpu().numpy() if has_truth else None,
        predicted=None if pixels is None else pixels[index].argmax(0).to(torch.uint8).cpu().numpy(),
        vacuity=None if prediction.pixel_vacuity is None else _array(prediction.pixel_vacuity[index]),
        reliable=None if scores is None else _array(1.0 - scores[index].float().softmax(0)[0]),
    )


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.float().cpu().numpy()


def _title(case: Case, manifest: Manifest, empty: EmptyRule) -> tuple[str, bool]:
    """Key, label -> predicted class with its probability, vacuity, Dice; and whether the class is wrong."""
    columns = Columns([case], manifest, empty)
    key = case["key"]
    parts = [key if len(key) <= 24 else f"{key[:11]}…{key[-12:]}"]
    label = int(columns.label[0])
    wrong = False
    if columns.has("image_nll"):
        number = int(columns.predicted[0])
        wrong = label not in (-1, number)
        known = manifest.classes[label] if label >= 0 else "?"
        parts.append(f"{known} → {manifest.classes[number]} {columns.probability[0, number]:.2f}")
    if columns.has("image_vacuity"):
        parts.append(f"vacuity {case['image_vacuity']:.2f}")
    if columns.masked[0] and len(manifest.mask_classes) > 1:
        dice = columns.dice[0]
        parts.append(f"Dice {dice:.2f}" if np.isfinite(dice) else "Dice left out")
    return "    ".join(parts), wrong
