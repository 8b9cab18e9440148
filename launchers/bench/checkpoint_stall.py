"""Measure for how long a checkpoint stops training: `make bench-checkpoint`.

The state of a network of each size, weights and two moments in float32, is saved several times in a fresh process, on
the CPU: while training waits; in the background; and by `torch.distributed.checkpoint.async_save` of the same tensors.
That is measured in two ways: in a thread, which is its default, and in a process with a copy in shared memory that is
kept for later saves, its fastest way without a GPU.

The stall is the time until the call returns. The next save begins when the last one is on the disk, so no stall
contains the wait for an earlier one. The first save is reported apart, since it may prepare what later ones use again.
The processor time of the stall is that of the calling process, all threads together; other programs that keep the cores
busy hardly change it.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.distributed as distributed
import torch.distributed.checkpoint as torch_checkpoint
from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

from bench_machine import facts
from uml_dist.config.schema import CheckpointConfig
from uml_dist.errors import UmlError
from uml_dist.run.background import Saved, Saver
from uml_dist.run.checkpoint import RunState
from uml_dist.run.folder import RunFolder
from uml_dist.run.network_state import NetworkState
from uml_shards.durable import replace_text
from uml_shards.errors import ShardError, run_command
from uml_shards.output import keep_output
from uml_shards.text import csv_table

WAYS = ("training waits", "in the background", "torch async_save, thread", "torch async_save, process")
TENSORS = 128
SECONDS = ("stall_seconds", "stall_processor_seconds", "seconds")

Save = Callable[[int], Callable[[], float]]
"""Starts the save of a step; returns what waits for its end and returns the monotonic time of it."""


class Figures(NamedTuple):
    """Seconds of a save: its stall, the processor time of that, and until the checkpoint is complete."""

    stall: float
    processor: float
    whole: float


def state_of(parameters: int) -> NetworkState:
    """Return the state of a network: weights and two moments."""

    def tensors() -> dict[str, Tensor]:
        return {f"layers.{number}.weight": torch.randn(parameters // TENSORS) for number in range(TENSORS)}

    return NetworkState(tensors(), {"exp_avg": tensors(), "exp_avg_sq": tensors()}, steps=1)


@contextmanager
def ours(folder: Path, state: NetworkState, background: bool) -> Iterator[Save]:
    """Save as a training does."""
    ended: list[Saved] = []
    config = CheckpointConfig(background=background, keep=1)
    saver = Saver(RunFolder(folder, writes=True), config, ended.append, print)

    def save(step: int) -> Callable[[], float]:
        start = time.monotonic()
        saver.save({"network": state}, RunState("bench", step=step), start=start)

        def wait() -> float:
            saver.wait()
            if saver.problem:
                raise UmlError(saver.problem)
            return start + ended[-1].seconds

        return wait

    yield save


@contextmanager
def theirs(folder: Path, state: NetworkState, kind: AsyncCheckpointerType) -> Iterator[Save]:
    """Save with torch's asynchronous save; like a training, keep the last checkpoint only."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    kept = StagingOptions(False, use_shared_memory=True, use_async_staging=False, use_non_blocking_copy=False)
    stager = DefaultStager(kept) if kind == AsyncCheckpointerType.PROCESS else None
    tensors = {"weights": state.weights, **state.moments}

    def save(step: int) -> Callable[[], float]:
        found: Any = torch_checkpoint.async_save(
            tensors, checkpoint_id=folder / str(step), async_checkpointer_type=kind, async_stager=stager
        )
        future = getattr(found, "upload_completion", found)

        def wait() -> float:
            future.result()
            end = time.monotonic()
            shutil.rmtree(folder / str(step - 1), ignore_errors=True)
            return end

        return wait

    yield save
    if stager:
        stager.close()
    distributed.destroy_process_group()


def measure(sender: Connection, way: str, parameters: int, saves: int, out: Path) -> None:
    """Send a `Figures` for each save, and None at the end; runs in a process of its own."""
    state = state_of(parameters)
    with tempfile.TemporaryDirectory(dir=out, prefix=".checkpoint_stall.") as name:
        folder = Path(name)
        chosen = {
            WAYS[0]: lambda: ours(folder, state, background=False),
            WAYS[1]: lambda: ours(folder, state, background=True),
            WAYS[2]: lambda: theirs(folder, state, AsyncCheckpointerType.THREAD),
            WAYS[3]: lambda: theirs(folder, state, AsyncCheckpointerType.PROCESS),
        }
        with chosen[way]() as save:
            for step in range(1, saves + 1):
                start, used = time.monotonic(), time.process_time()
                wait = save(step)
                stall, used = time.monotonic() - start, time.process_time() - used
                sender.send(Figures(stall, used, wait() - start))
    sender.send(None)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parameters", type=float, nargs="+", default=(60e6, 400e6), help="sizes of networks (default: 60e6 400e6)"
    )
    parser.add_argument("--saves", type=int, default=4, help="saves of each size and way (default: 4)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="ways to save (default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench"), help="folder of checkpoint_stall.csv (runs/bench)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; return the exit code: 0 success, 2 something must be changed."""
    keep_output()
    options = parse(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: run(options), options.debug, (UmlError, ShardError))


def run(options: argparse.Namespace) -> int:
    """Measure every way at every size."""
    if any(parameters < TENSORS for parameters in options.parameters) or options.saves < 2:
        raise UmlError(f"--parameters must be at least {TENSORS}, and --saves at least 2")
    options.out.mkdir(parents=True, exist_ok=True)
    machine = facts()
    rows = [["way", "parameters", "bytes", "save", *SECONDS, "load", *machine]]
    columns = f"{'stall of the first':>20}{'of later ones':>15}{'processor time':>19}{'until on disk':>15}"
    print(f"{'':<28}{'parameters':>12}{'GB':>7}{columns}")
    for parameters in map(int, options.parameters):
        size = 3 * 4 * (parameters // TENSORS) * TENSORS
        for way in options.ways:
            load = os.getloadavg()[0]
            found = run_alone(way, parameters, options.saves, options.out)
            for number, one in enumerate(found, 1):
                figures = [f"{figure:.4f}" for figure in (*one, load)]
                rows.append([way, str(parameters), str(size), str(number), *figures, *machine.values()])
            later, used, whole = (median(column) for column in zip(*found[1:], strict=True))
            words = f"{way:<28}{parameters / 1e6:>10.0f} M{size / 1e9:>7.2f}"
            first = found[0].stall
            print(f"{words}{first:>18.2f} s{later:>13.2f} s{used:>17.2f} s{whole:>13.2f} s", flush=True)
    path = options.out / "checkpoint_stall.csv"
    replace_text(path, csv_table(rows))
    print(f"\nwritten to {path}")
    return 0


def run_alone(way: str, parameters: int, saves: int, out: Path) -> list[Figures]:
    """Measure in a fresh process, whose memory is free afterwards."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(sender, way, parameters, saves, out))
    process.start()
    sender.close()
    found: list[Figures] = []
    try:
        while (one := receiver.recv()) is not None:
            found.append(one)
    except EOFError:
        process.join()
        raise UmlError(f"{way}, {parameters} parameters: the process has ended with code {process.exitcode}") from None
    process.join()
    return found


if __name__ == "__main__":
    sys.exit(main())
