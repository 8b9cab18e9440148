"""A recipe with its networks, ready to predict: the one place where predictions are made."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import nn

from uml_shards.read.loader import load
from uml_shards.read.stream import Stream

from ..batch import Batch, Prediction, collate
from ..config.evaluating import WindowsConfig
from ..metrics.thresholds import Thresholds
from ..recipes import Recipe
from .components import keep_largest
from .windows import Windows


class PredictionSource(Protocol):
    """What an evaluation needs: a `Predictor`, or the perfect model."""

    @property
    def recipe(self) -> Recipe:
        """The recipe, whose families of metrics are evaluated."""
        ...

    def notes(self, stream: Stream) -> Mapping[str, str]:
        """Return how a stream's predictions are made: title -> one line."""
        ...

    def predictions(
        self, stream: Stream, positions: Sequence[int], batch_size: int, workers: int = 0
    ) -> Iterator[tuple[Batch, Prediction]]:
        """Yield batches of the samples at some positions of a stream with the predictions."""
        ...


@dataclass(frozen=True)
class Predictor:
    """A recipe with the networks that it predicts with.

    Attributes:
        recipe: the recipe.
        networks: its networks by name, plain modules; in evaluation mode while they predict.
        device: device of the networks.
        autocast: precision to predict in; entered for every batch.
        windows: the windows in which images of any size are predicted; None: the networks see the complete image.
        largest_component: whether only the largest component of each predicted class is kept.
        thresholds: the thresholds of lesions; None: 0.5.
    """

    recipe: Recipe
    networks: Mapping[str, nn.Module]
    device: torch.device
    autocast: AbstractContextManager[Any] = field(default_factory=nullcontext)
    windows: WindowsConfig | None = None
    largest_component: bool = False
    thresholds: Thresholds | None = None

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        networks: Mapping[str, nn.Module],
        device: torch.device,
        autocast: AbstractContextManager[Any],
    ) -> "Predictor":
        """Return a predictor as the recipe's configuration describes it; see the attributes."""
        config = recipe.config
        windows = config.windows if config.windows.apply_to(recipe.dimensions) else None
        return cls(recipe, networks, device, autocast, windows, config.evaluation.largest_component)

    def notes(self, stream: Stream) -> Mapping[str, str]:
        """Return how a stream's predictions are made, where there is a choice: title -> one line."""
        found = {}
        if self.windows is not None:
            found["windows"] = str(Windows.of(self.windows, stream.size))
        if self.largest_component:
            found["classes"] = "the largest component of each"
        if self.thresholds is not None:
            found["thresholds"] = str(self.thresholds)
        return found

    def predict(self, batch: Batch, window: Sequence[int]) -> Prediction:
        """Return the predictions for a batch; networks must be in evaluation mode.

        Args:
            batch: images of any size if there are windows, else of one that the networks take.
            window: size of a window.
        """
        with torch.no_grad(), self.autocast:
            if self.windows is None:
                found = self._predict(batch)
            else:
                found = Windows.of(self.windows, window).predict(batch, self._predict)
            if self.thresholds is not None:
                found = replace(found, thresholds=tuple(self.thresholds.values.values()))
            return keep_largest(found) if self.largest_component else found

    def _predict(self, batch: Batch) -> Prediction:
        return self.recipe.predict(batch, self.networks)

    def predictions(
        self, stream: Stream, positions: Sequence[int], batch_size: int, workers: int = 0
    ) -> Iterator[tuple[Batch, Prediction]]:
        """Yield batches of the samples at some positions of a stream, in their order, with the predictions.

        Args:
            stream: the stream.
            positions: positions of the samples; a position without a sample yields a placeholder.
            batch_size: samples per batch. Those that are read in their stored size come one by one.
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
                prediction = self.predict(batch, stream.size)
                yield batch.to(prediction.device or self.device), prediction
        finally:
            for name, network in self.networks.items():
                network.train(training[name])
