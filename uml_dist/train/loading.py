"""How many processes load samples ahead, and whether shared memory and open files suffice for them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from uml_shards.format.manifest import Manifest
from uml_shards.read.loader import PREFETCH

from ..config.schema import RunConfig
from ..errors import UmlError
from ..launch.resources import Space, read_open_files, read_space
from ..run.data import Size, reads_whole
from .setup import Setup

TENSORS = 6
"""Tensors of a batch of one stream; each takes whole pages of shared memory and an open file."""

PAGE = 4096
OTHER_FILES = 128
"""Open files of a rank without loader workers; one of two ranks was seen to have 43."""

WORKER_FILES = 8
"""Open files of a rank for each worker: pipes and semaphores."""

MORE_MEMORY = "enlarge it (docker run --shm-size=8g)"
MORE_FILES = "raise the hard limit (limits.conf, docker --ulimit nofile=4096)"


@dataclass(frozen=True)
class InFlight:
    """Batches of one rank that exist at once, apart from those that workers have ready.

    Attributes:
        bytes: bytes of the batches of one request.
        streams: streams in a request.
        held: requests whose batches the rank itself holds.
    """

    bytes: int
    streams: int = 1
    held: int = 2

    def shared_bytes(self, workers: int) -> int:
        """Return the bytes of shared memory that are in use at once with a number of workers."""
        requests = workers * PREFETCH + self.held
        return requests * (self.bytes + self.streams * TENSORS * PAGE) if workers else 0

    def open_files(self, workers: int) -> int:
        """Return the files that the rank has open at once for a number of workers."""
        requests = workers * PREFETCH + self.held
        return workers * WORKER_FILES + requests * self.streams * TENSORS if workers else 0


def sample_bytes(manifest: Manifest, size: Size) -> int:
    """Return the bytes of a sample in a batch: a float32 image, and a mask or one for each lesion."""
    return prod(size) * (4 * manifest.channels + max(1, len(manifest.mask_names)))


def of_training(setup: Setup, ranks: int) -> list[InFlight]:
    """Return the batches that are in flight on a rank while it trains, and those of a validation meanwhile.

    The size of samples that are read whole is not known before; they are left out.
    """
    found, largest = [], 1
    for phase, _ in setup.phases:
        rank_batch = setup.rank_batch(phase, 0, ranks)
        parts = {name: count // (ranks * rank_batch.accumulation) for name, count in rank_batch.counts.items()}
        size = sum(n * sample_bytes(setup.splits[name].manifest, setup.sizes[name]) for name, n in parts.items())
        found.append(InFlight(size, len(parts), rank_batch.accumulation + 1))
        largest = max(largest, rank_batch.micro_batch)
    images = [one for one in setup.validations if not reads_whole(setup.config, one.split.manifest)]
    sizes = [largest * sample_bytes(one.split.manifest, one.size) for one in images]
    training = max(found, key=lambda one: one.shared_bytes(1))
    return [training, *([InFlight(max(sizes))] if sizes else [])]


def loader_workers(
    config: RunConfig,
    on_gpu: bool,
    local_ranks: int,
    in_flight: Sequence[InFlight] = (),
    space: Space | None = None,
    files: int | None = None,
) -> tuple[int, str | None]:
    """Return the number of processes per rank that load samples ahead.

    Args:
        config: the run's configuration.
        on_gpu: whether the ranks train on GPUs.
        local_ranks: number of ranks on this machine.
        in_flight: what each rank has in flight.
        space: size of shared memory; by default that of this machine.
        files: limit of open files; by default that of this process.

    Returns:
        The number, and a line for the user if `data.workers` is "auto" and there is no room for as many as usual.

    Raises:
        UmlError: there is no room for as many workers as `data.workers` states.
    """
    cores = (os.cpu_count() or 1) // max(local_ranks, 1)
    automatic = config.data.workers == "auto"
    wanted = config.data.workers if config.data.workers != "auto" else min(4, max(cores - 1, 1)) if on_gpu else 0
    space = space or read_space()
    files = read_open_files()[0] if files is None else files
    problem = _problem(wanted, local_ranks, in_flight, space, files)
    if problem is None:
        return wanted, None
    lack, remedy = problem
    fitting = [n for n in range(wanted) if _problem(n, local_ranks, in_flight, space, files) is None]
    if not fitting:
        raise UmlError(f"{lack}: {remedy}")
    if not automatic:
        raise UmlError(f"data.workers = {wanted}: {lack}: set data.workers=0, or {remedy}")
    return fitting[-1], f"{lack}: {fitting[-1]} loader workers are used; for more, {remedy}"


def _problem(
    workers: int, ranks: int, in_flight: Sequence[InFlight], space: Space | None, files: int
) -> tuple[str, str] | None:
    """Return what a number of workers lacks and the remedy; None if they have enough."""
    opened = OTHER_FILES + sum(one.open_files(workers) for one in in_flight)
    if workers < 1:
        lack = f"a rank needs {opened} open files, but the limit is {files}"
        return (lack, MORE_FILES) if 0 <= files < opened else None
    who = f"{workers} loader workers" + (f" on each of {ranks} ranks" if ranks > 1 else "")
    needed = ranks * sum(one.shared_bytes(workers) for one in in_flight)
    if space is not None and needed > space.free:
        return (
            f"{who} need {_megabytes(needed)} of shared memory, but {_megabytes(space.free)} are free in /dev/shm",
            MORE_MEMORY,
        )
    if 0 <= files < opened:
        return f"{who} need {opened} open files in a rank, but the limit is {files}", MORE_FILES
    return None


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
