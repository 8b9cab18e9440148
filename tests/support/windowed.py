"""Evaluations by windows, in any world, of a network that takes multiples of 4 only."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from uml_dist.batch import Batch, Prediction
from uml_dist.config.evaluating import WindowsConfig
from uml_dist.evaluate import Evaluation, Predictor, evaluate
from uml_dist.metrics.families import STANDARD, Surfaces
from uml_shards.read.plan import InOrder
from uml_shards.read.split import open_split
from uml_shards.read.stream import Stream


class Narrow(nn.Module):
    """Adds to each pixel the mean of its block of 4 along each axis; records the shapes of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.shapes.append(tuple(image.shape))
        pool = nn.functional.avg_pool2d if image.dim() == 4 else nn.functional.avg_pool3d
        coarse = nn.functional.interpolate(pool(image[:, :1], 4), scale_factor=4)
        return image[:, 0] + coarse[:, 0]  # fails unless both have the same size


class NarrowRecipe:
    """A recipe as far as an evaluation is concerned."""

    families = (*STANDARD, Surfaces())

    def predict(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Prediction:
        score = networks["net"](batch.image)
        lesion = score.sigmoid()
        return Prediction(pixel_probability=torch.stack([1 - lesion, lesion], 1), maps={"distance": score.tanh().abs()})


def evaluate_by_windows(
    folder: str, size: tuple[int, ...], batch_size: int = 2, largest: bool = False, **settings: Any
) -> tuple[Evaluation, list[tuple[int, ...]]]:
    """Return the evaluation of a split on this rank, and the shapes that its network saw.

    Args:
        folder: the split.
        size: size of the windows.
        batch_size: samples per batch.
        largest: whether only the largest component of each class is kept.
        settings: those of `[windows]`; without windows, `use="never"`.
    """
    split = open_split(folder)
    windows = WindowsConfig(**settings)
    network = Narrow()
    used = windows if windows.use != "never" else None
    predictor = Predictor(
        NarrowRecipe(),  # type: ignore[arg-type]
        {"net": network},
        torch.device("cpu"),
        windows=used,
        largest_component=largest,
    )
    stream = Stream(split, InOrder(len(split)), size, split.manifest.statistics, whole=True)
    return evaluate(predictor, stream, batch_size, draws=20), network.shapes
