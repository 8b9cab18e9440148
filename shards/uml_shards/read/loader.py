"""Load streams with torch's DataLoader; the only module that needs torch."""

import pickle
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from .. import tally
from ..errors import ShardError, one_line
from ..sample import Sample
from .stream import Stream

Request = Mapping[str, Sequence[int]]
"""Stream name -> positions to load for one micro batch."""

Collate = Callable[[Stream, Sequence[Sample], Sequence[int]], Any]
"""Builds a batch from the samples of a stream and their positions."""

PREFETCH = 2
"""Batches that each worker has ready or is loading."""

WAIT_SECONDS = 600.0
"""How long to wait for a batch of a worker; about as long as other ranks wait for this one."""


class _Packed:
    """The batches of one request on their way from a worker, and what it has read since those before.

    The batches' tensors are in shared memory.
    """

    def __init__(self, batches: Mapping[str, Any]) -> None:
        # Here and not in the queue's own thread, which would lose the batches if this fails, and print a traceback.
        self._data = bytes(ForkingPickler.dumps(batches))
        self._counts = tally.take()

    def unpack(self) -> dict[str, Any] | ShardError:
        """Return the batches, or the error if they cannot be received; called once."""
        tally.add(self._counts)
        try:
            return pickle.loads(self._data)
        except (OSError, RuntimeError, EOFError) as error:
            return _transfer_error(error)

    def pin_memory(self) -> dict[str, Any] | ShardError:
        """Return the batches in page-locked memory (called by the DataLoader)."""
        batches = self.unpack()
        if isinstance(batches, ShardError):
            return batches
        return {name: batch.pin_memory() for name, batch in batches.items()}


class _MicroBatches(Dataset):
    """Maps a request to one collated batch per stream. Errors are returned as values to keep them on one line."""

    def __init__(self, streams: Mapping[str, Stream], collate: Collate) -> None:
        self.streams = streams
        self.collate = collate

    def __getitem__(self, request: Request) -> dict[str, Any] | _Packed | ShardError:
        try:
            batches = {
                name: self.collate(stream, [stream.sample(position) for position in request[name]], request[name])
                for name, stream in self.streams.items()
                if name in request
            }
        except ShardError as error:
            return error
        if get_worker_info() is None:
            return batches
        try:
            return _Packed(batches)
        except (OSError, RuntimeError) as error:
            return _transfer_error(error)


def _identity(batches: Any) -> Any:
    return batches


def _ignore_signals(worker: int) -> None:
    """Let this worker ignore the signals that stop a training.

    Launchers, schedulers and terminals send them to all processes, but the rank needs batches for its last step.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _end_by_kill(iterator: Any) -> None:
    """Let torch and multiprocessing end the workers of a DataLoader's iterator by a signal that they cannot ignore."""
    for worker in getattr(iterator, "_workers", ()):
        worker._popen.terminate = worker._popen.kill


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
        ShardError: a sample cannot be read, or a worker has died, hangs or has no room for its batches.
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
        prefetch_factor=PREFETCH if workers else None,
        timeout=WAIT_SECONDS if workers else 0,
        worker_init_fn=_ignore_signals,
        generator=torch.Generator().manual_seed(0),
    )
    iterator = iter(loader)
    _end_by_kill(iterator)
    while True:
        try:
            batches = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if (known := worker_error(error)) is None:
                raise
            raise known from None
        if isinstance(batches, _Packed):
            batches = batches.unpack()
        if isinstance(batches, ShardError):
            raise batches
        yield batches


def worker_error(error: RuntimeError) -> ShardError | None:
    """Return the error for users if an error of torch reports that a worker died or hangs; None for other errors.

    Torch raises it wherever the main thread is when a worker dies, also outside `load`.
    """
    # The DataLoader's error for a worker that it misses has torch's error, with the signal, as its cause.
    text = one_line(error.__cause__ if isinstance(error.__cause__, RuntimeError) else error)
    if text.startswith("DataLoader timed out"):
        return ShardError(
            f"a loader worker has given no batch for {WAIT_SECONDS:.0f} s: check the disk or the server of the shards, "
            "or set data.workers=0"
        )
    found = re.match(r"DataLoader worker \((?:pid|pid\(s\)) ([\d, ]+)\) (is killed by signal: [\w ]+|exited)", text)
    if found is None:
        return None
    end = "has ended" if found[2] == "exited" else found[2].replace("is killed", "was killed")
    return ShardError(
        f"loader worker {found[1]} {end}: if the machine has run out of memory, use fewer data.workers, or set "
        "data.workers=0"
    )


def _transfer_error(error: Exception) -> ShardError:
    return ShardError(
        f"a loader worker cannot pass its batch on: {one_line(error)}: set data.workers=0, or enlarge shared memory "
        "(docker run --shm-size=8g) and the limit of open files (ulimit -n)"
    )
