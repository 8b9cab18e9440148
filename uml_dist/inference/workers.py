"""Predicts on several GPUs, or in several processes of the CPU."""

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from uml_shards.errors import ShardError, one_line

from ..errors import UmlError
from ..run.load import load_run
from .engine import Engine, Outcome
from .settings import PredictSettings
from .sources import Source

SECONDS = 0.5
"""How long the parent waits for an outcome before it looks whether all workers live."""


@dataclass(frozen=True)
class Job:
    """What every worker needs; it can be pickled.

    Attributes:
        load: arguments of `load_run`, without the device.
        settings: the settings.
        out: the folder of the predictions.
        devices: the device of each worker.
    """

    load: dict[str, Any]
    settings: PredictSettings
    out: Path
    devices: tuple[str, ...]


@dataclass(frozen=True)
class _Ended:
    """The last message of a worker.

    Attributes:
        problem: the error for the user, if there was one.
    """

    problem: str = ""


def outcomes_of_workers(job: Job, batches: Sequence[Sequence[Source]], names: dict[str, str]) -> Generator[Outcome]:
    """Yield what became of each case, as workers finish them: batch k is that of worker k modulo their number.

    Raises:
        UmlError: a worker failed or died; the others are ended.
    """
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    count = len(job.devices)
    shares = [batches[rank::count] for rank in range(count)]
    workers = [
        context.Process(target=_work, args=(job, rank, share, names, results), daemon=True)
        for rank, share in enumerate(shares)
        if share
    ]
    for worker in workers:
        worker.start()
    running = len(workers)
    try:
        while running:
            try:
                found = results.get(timeout=SECONDS)
            except queue.Empty:
                _check(workers)
                continue
            if isinstance(found, _Ended):
                running -= 1
                if found.problem:
                    raise UmlError(found.problem)
            else:
                yield found
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


def _check(workers: Sequence[Any]) -> None:
    """Raise an error if a worker died without a message: one that was killed sends none."""
    for rank, worker in enumerate(workers):
        if worker.exitcode not in (None, 0):
            how = f"was killed by signal {-worker.exitcode}" if worker.exitcode < 0 else f"ended with {worker.exitcode}"
            raise UmlError(
                f"worker {rank} {how}: if the machine has run out of memory, use fewer workers; repeat the command to "
                "continue"
            )


def _work(job: Job, rank: int, batches: Sequence[Sequence[Source]], names: dict[str, str], results: Any) -> None:
    """Predict a share of the batches in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    _end_with_parent()
    device = job.devices[rank]
    if device == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // len(job.devices)))
    problem = ""
    try:
        engine = Engine(load_run(**job.load, device=device), job.settings, job.out)
        for outcome in engine.outcomes(batches, names):
            results.put(replace(outcome, case=None))
    except (UmlError, ShardError) as error:
        problem = str(error)
    except OSError as error:
        problem = one_line(error)
    results.put(_Ended(problem))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
