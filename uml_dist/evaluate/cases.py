"""Cases: one row of figures per sample of a split, from all ranks."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from uml_shards.read.loader import load
from uml_shards.read.stream import Stream

from ..batch import Batch, Prediction, collate
from ..distributed.ranks import gather, rank, world_size
from ..errors import UmlError
from ..recipes import Recipe
from .pixels import pixel_columns

Case = dict[str, Any]
"""Figures by name: floats, and the arrays of `uml_dist.evaluate.pixels`; `key` and `position` say whose they are."""


@dataclass(frozen=True)
class Predictor:
    """A recipe with the networks that it predicts with.

    Attributes:
        recipe: that predicts.
        networks: by name; put into evaluation mode meanwhile.
        device: of the networks.
        autocast: the precision to predict in; entered for every batch.
    """

    recipe: Recipe
    networks: Mapping[str, nn.Module]
    device: torch.device
    autocast: AbstractContextManager[Any] = field(default_factory=nullcontext)

    def predictions(
        self, stream: Stream, positions: Sequence[int], batch_size: int, workers: int = 0
    ) -> Iterator[tuple[Batch, Prediction]]:
        """Batches of the samples at some positions of a stream, in their order, and what is said of them.

        Args:
            stream: where they are.
            positions: of the samples; one that holds none gives a placeholder.
            batch_size: samples at once.
            workers: processes that read ahead.
        """
        requests = [
            {stream.name: list(positions[start : start + batch_size])} for start in range(0, len(positions), batch_size)
        ]
        training = {name: network.training for name, network in self.networks.items()}
        for network in self.networks.values():
            network.eval()
        on_gpu = self.device.type == "cuda"
        try:
            for batches in load({stream.name: stream}, requests, collate, workers, pin_memory=on_gpu):
                batch = batches[stream.name].to(self.device)
                with torch.no_grad(), self.autocast:
                    prediction = self.recipe.predict(batch, self.networks)
                yield batch, prediction
        finally:
            for name, network in self.networks.items():
                network.train(training[name])


def evaluate_split(predictor: Predictor, stream: Stream, batch_size: int, workers: int = 0) -> list[Case]:
    """The cases of a split, sorted by key, on rank 0; nothing on the others. All ranks must call it.

    Each rank takes a contiguous part; some may have a batch more than others, so the networks must be plain modules.

    Args:
        predictor: what is evaluated.
        stream: the split, in its own order.
        batch_size: samples per rank at once.
        workers: processes that read ahead.

    Raises:
        UmlError: the split has masks that overlap, and pixels are predicted.
    """
    per_rank = -(-len(stream.split) // world_size())
    own = range(len(stream.split))[rank() * per_rank : (rank() + 1) * per_rank]
    cases: list[Case] = []
    for batch, prediction in predictor.predictions(stream, own, batch_size, workers):
        if prediction.pixel_probability is not None and stream.split.manifest.mask_names:
            raise UmlError(
                f"the masks of {stream.split.path} overlap: pixels are evaluated with one mask per image only"
            )
        cases += _cases(batch, prediction)
    return sorted((case for part in gather(cases) for case in part), key=lambda case: case["key"])


def _cases(batch: Batch, prediction: Prediction) -> Iterator[Case]:
    columns: dict[str, Tensor] = {"label": batch.label, "position": batch.position}
    if prediction.image_probability is not None:
        columns |= _image_columns(prediction.image_probability.float(), batch.label)
    if prediction.image_vacuity is not None:
        columns["image_vacuity"] = prediction.image_vacuity.float()
    if prediction.pixel_probability is not None:
        columns |= pixel_columns(prediction, batch.mask)
    values = {name: column.cpu().numpy() for name, column in columns.items()}
    for index, key in enumerate(batch.keys):
        if batch.weight[index] > 0:
            rows = {name: column[index] for name, column in values.items()}
            yield {"key": key, **{name: row.copy() if row.ndim else row.item() for name, row in rows.items()}}


def _image_columns(probability: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Per case: the probability of each image class, and the negative log-likelihood of the label in nats."""
    columns = {f"probability_{number}": probability[:, number] for number in range(probability.shape[1])}
    of_label = probability.gather(1, label.clamp(min=0)[:, None])[:, 0]
    columns["image_nll"] = torch.where(label >= 0, -of_label.clamp(min=1e-12).log(), torch.nan)
    return columns
