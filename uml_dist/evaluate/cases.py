"""Cases: one row of figures per sample of a split, from all ranks."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from uml_shards.loader import load
from uml_shards.sample import IGNORE
from uml_shards.stream import Stream

from ..batch import Batch, Prediction, collate
from ..recipes import Recipe

Case = dict[str, Any]


@torch.no_grad()
def evaluate_split(
    recipe: Recipe,
    networks: Mapping[str, nn.Module],
    stream: Stream,
    batch_size: int,
    device: torch.device,
    autocast: AbstractContextManager[Any],
    workers: int = 0,
) -> list[Case]:
    """The cases of a split, sorted by key, on every rank. All ranks must call it.

    Each rank takes an equal contiguous part, padded with samples of weight 0, so that no rank has a batch more than
    another (ZeRO-3 gathers parameters in every forward pass).

    Args:
        recipe: that predicts.
        networks: by name; put into evaluation mode meanwhile.
        stream: the split to be evaluated, in its own order.
        batch_size: samples per rank at once.
        device: of the networks.
        autocast: the precision to predict in; entered for every batch.
        workers: processes that read ahead.
    """
    ranks = distributed.get_world_size() if distributed.is_initialized() else 1
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    per_rank = -(-len(stream.split) // ranks)
    first = rank * per_rank
    requests = [
        {stream.name: list(range(start, min(start + batch_size, first + per_rank)))}
        for start in range(first, first + per_rank, batch_size)
    ]
    training = {name: network.training for name, network in networks.items()}
    for network in networks.values():
        network.eval()
    cases: list[Case] = []
    for batches in load({stream.name: stream}, requests, collate, workers, pin_memory=device.type == "cuda"):
        batch = batches[stream.name].to(device)
        with autocast:
            prediction = recipe.predict(batch, networks)
        cases += _cases(batch, prediction)
    for name, network in networks.items():
        network.train(training[name])
    parts: list[list[Case]] = [cases]
    if ranks > 1:
        parts = [[] for _ in range(ranks)]
        distributed.all_gather_object(parts, cases)
    return sorted((case for part in parts for case in part), key=lambda case: case["key"])


def _cases(batch: Batch, prediction: Prediction) -> Iterator[Case]:
    columns: dict[str, Tensor] = {"label": batch.label}
    if prediction.image_probability is not None:
        columns |= _image_columns(prediction.image_probability.float(), batch.label)
    if prediction.pixel_probability is not None:
        columns |= _pixel_columns(prediction.pixel_probability.float(), batch.mask)
    if prediction.image_vacuity is not None:
        columns["image_vacuity"] = prediction.image_vacuity
    if prediction.pixel_vacuity is not None:
        columns["pixel_vacuity"] = prediction.pixel_vacuity.flatten(1).mean(1)
    values = {name: column.float().cpu().tolist() for name, column in columns.items()}
    for index, key in enumerate(batch.keys):
        if batch.weight[index] > 0:
            yield {"key": key, **{name: column[index] for name, column in values.items()}}


def _image_columns(probability: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Per case: the probability of each image class, and the negative log-likelihood of the label in nats."""
    columns = {f"probability_{number}": probability[:, number] for number in range(probability.shape[1])}
    of_label = probability.gather(1, label.clamp(min=0)[:, None])[:, 0]
    columns["image_nll"] = torch.where(label >= 0, -of_label.clamp(min=1e-12).log(), torch.nan)
    return columns


def _pixel_columns(probability: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Per case and pixel class: intersection, predicted and true pixels; and the mean negative log-likelihood."""
    valid = mask != IGNORE
    target = torch.where(valid, mask, 0).long()
    predicted = probability.argmax(1)
    columns: dict[str, Tensor] = {"pixels": valid.flatten(1).sum(1)}
    of_target = probability.gather(1, target[:, None])[:, 0]
    nll = torch.where(valid, -of_target.clamp(min=1e-12).log(), 0.0).flatten(1).sum(1)
    columns["pixel_nll"] = torch.where(columns["pixels"] > 0, nll / columns["pixels"], torch.nan)
    for number in range(probability.shape[1]):
        is_predicted = (predicted == number) & valid
        is_true = (target == number) & valid
        columns[f"intersection_{number}"] = (is_predicted & is_true).flatten(1).sum(1)
        columns[f"predicted_{number}"] = is_predicted.flatten(1).sum(1)
        columns[f"true_{number}"] = is_true.flatten(1).sum(1)
    return columns
