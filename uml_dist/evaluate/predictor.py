"""A recipe with its networks, ready to predict: the one place where predictions are made."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from uml_shards.read.loader import load
from uml_shards.read.stream import Stream

from ..batch import Batch, Prediction, collate
from ..recipes import Recipe


@dataclass(frozen=True)
class Predictor:
    """A recipe with the networks that it predicts with.

    Attributes:
        recipe: the recipe.
        networks: its networks by name, plain modules; in evaluation mode while they predict.
        device: device of the networks.
        autocast: precision to predict in; entered for every batch.
    """

    recipe: Recipe
    networks: Mapping[str, nn.Module]
    device: torch.device
    autocast: AbstractContextManager[Any] = field(default_factory=nullcontext)

    def predict(self, batch: Batch) -> Prediction:
        """Return the predictions for a batch on the networks' device; networks must be in evaluation mode."""
        with torch.no_grad(), self.autocast:
            return self.recipe.predict(batch, self.networks)

    def predictions(
        self, stream: Stream, positions: Sequence[int], batch_size: int, workers: int = 0
    ) -> Iterator[tuple[Batch, Prediction]]:
        """Yield batches of the samples at some positions of a stream, in their order, with the predictions.

        Args:
            stream: the stream.
            positions: positions of the samples; a position without a sample yields a placeholder.
            batch_size: samples per batch. Whole volumes differ in shape, so they come one by one.
            workers: number of processes that read ahead.
        """
        size = 1 if stream.whole else batch_size
        requests = [{stream.name: list(positions[start : start + size])} for start in range(0, len(positions), size)]
        training = {name: network.training for name, network in self.networks.items()}
        for network in self.networks.values():
            network.eval()
        on_gpu = self.device.type == "cuda"
        try:
            for batches in load({stream.name: stream}, requests, collate, workers, pin_memory=on_gpu):
                batch = batches[stream.name].to(self.device)
                yield batch, self.predict(batch)
        finally:
            for name, network in self.networks.items():
                network.train(training[name])
