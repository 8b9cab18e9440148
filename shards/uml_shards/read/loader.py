"""The one place where shards meet torch: streams behind a DataLoader."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import ShardError
from ..sample import Sample
from .stream import Stream

Request = Mapping[str, Sequence[int]]
"""The positions wanted from each stream for one micro batch."""

Collate = Callable[[Stream, Sequence[Sample], Sequence[int]], Any]
"""Makes a batch of samples of one stream and their positions."""


class _MicroBatches(Dataset):
    """A request -> one collated batch per stream; errors travel as values, so that they stay one line."""

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


def _as_it_is(batches: Any) -> Any:
    return batches


def load(
    streams: Mapping[str, Stream],
    requests: Iterable[Request],
    collate: Collate,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[dict[str, Any]]:
    """Batches for requests, in their order, read ahead by worker processes.

    Args:
        streams: the sources.
        requests: what to read; may be endless.
        collate: makes a batch of each stream's samples.
        workers: processes that read ahead; 0 reads in this process. Their number changes nothing else.
        pin_memory: hand batches over in page-locked memory, for a GPU.

    Yields:
        One dict of batches, by stream, per request.

    Raises:
        ShardError: a sample cannot be read.
    """
    # A DataLoader without a generator of its own draws from torch's global one at every new iterator, and a run that
    # was resumed would differ from one that was not.
    loader = DataLoader(
        _MicroBatches(streams, collate),
        sampler=requests,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        prefetch_factor=2 if workers else None,
        generator=torch.Generator().manual_seed(0),
    )
    for batches in loader:
        if isinstance(batches, ShardError):
            raise batches
        yield batches
