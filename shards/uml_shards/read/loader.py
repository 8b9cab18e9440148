"""Load streams with torch's DataLoader; the only module that needs torch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import ShardError
from ..sample import Sample
from .stream import Stream

Request = Mapping[str, Sequence[int]]
"""Stream name -> positions to load for one micro batch."""

Collate = Callable[[Stream, Sequence[Sample], Sequence[int]], Any]
"""Builds a batch from the samples of a stream and their positions."""


class _MicroBatches(Dataset):
    """Maps a request to one collated batch per stream. Errors are returned as values to keep them on one line."""

    def __init__(self, streams: Mapping[str, Stream], collate: Collate) -> None:
        self.streams = streams
        self.collate = collate

    def __getitem__(self, request: Request) -> dict[str, Any] | ShardError:
        try:
            return {
                name: self.collate(stream, [stream.sample(position) for position in request[name]], request[name])
                for name, stream in self.streams.items()
                if name in request
            }
        except ShardError as error:
            return error


def _identity(batches: Any) -> Any:
    return batches


def load(
    streams: Mapping[str, Stream],
    requests: Iterable[Request],
    collate: Collate,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield the batches of requests, in order, prefetched by worker processes.

    Args:
        streams: stream name -> stream.
        requests: requests to load; may be infinite.
        collate: function that builds a batch of a stream's samples.
        workers: number of processes that read ahead; 0 reads in this process. The number does not affect the batches.
        pin_memory: whether to return batches in page-locked memory, for a GPU.

    Yields:
        For each request, a dict: stream name -> batch.

    Raises:
        ShardError: a sample cannot be read.
    """
    # Without its own generator, a DataLoader draws from torch's global generator for every new iterator, so a resumed
    # run would differ from an uninterrupted one.
    loader = DataLoader(
        _MicroBatches(streams, collate),
        sampler=requests,
        batch_size=None,
        num_workers=workers,
        collate_fn=_identity,
        pin_memory=pin_memory,
        prefetch_factor=2 if workers else None,
        generator=torch.Generator().manual_seed(0),
    )
    for batches in loader:
        if isinstance(batches, ShardError):
            raise batches
        yield batches
