"""Write the shards of a split in this process or in several. Finished shards of an earlier run are kept."""

import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from ..errors import ShardError
from ..format.decode import Layout
from ..importers.base import Importer, Source
from .shard_writer import Counts, StoppedError, Task, write_shard
from .unfinished import Unfinished, Written


def write_shards(
    importer: Importer,
    source: Source,
    runs: Sequence[Sequence[Any]],
    unfinished: Unfinished,
    workers: int,
    limit: int | None,
    quiet: bool,
) -> list[Written]:
    """Write the missing shards, and return the records of all shards, including those of an earlier run."""
    layout = Layout(len(source.classes), len(source.mask_classes), source.mask_names, described=True)
    found = {number: unfinished.find(number) for number in range(len(runs))}
    # If no sample may be skipped, a shard with skipped samples is written again, up to the error.
    kept = {number: one for number, one in found.items() if one and (limit is not None or not one.skipped)}
    samples, skipped = sum(len(runs[number]) for number in kept), sum(len(one.skipped) for one in kept.values())
    if limit is not None and skipped > limit:
        raise ShardError(f"{importer.name}: {skipped} samples are already skipped: pass a larger --max-skipped")
    tasks = [
        Task(importer, layout, run, unfinished, number, limit) for number, run in enumerate(runs) if number not in kept
    ]
    if kept and not quiet:
        print(f"{unfinished.folder}: continuing with {samples} of {len(source.items)} samples", file=sys.stderr)
    context = multiprocessing.get_context()
    total, name = len(source.items), unfinished.folder.name
    with tqdm(total=total, initial=samples, desc=name, unit="sample", disable=quiet or None) as bar:
        if workers <= 1:
            counts = Counts(context, samples, skipped, bar)
            new = [write_shard(task, counts) for task in tasks]
        else:
            new = _write_in_pool(tasks, min(workers, len(tasks)), context, Counts(context, samples, skipped), bar)
    done = kept | {task.number: one for task, one in zip(tasks, new, strict=True)}
    return [done[number] for number in range(len(runs))]


def _write_in_pool(tasks: Sequence[Task], workers: int, context: Any, counts: Counts, bar: tqdm) -> list[Written]:
    if not tasks:
        return []
    # The import loads torch, which takes seconds. Done here once, forked workers inherit it.
    import webdataset  # noqa: F401

    with _pool(workers, context, counts) as pool:
        futures = [pool.submit(_write_in_worker, task) for task in tasks]
        pending: set[Future[Written]] = set(futures)
        while pending:
            finished, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
            bar.update(counts.done.value - bar.n)
            for future in finished:
                error = future.exception()
                if error is not None and not isinstance(error, StoppedError):
                    raise error
        return [future.result() for future in futures]


@contextmanager
def _pool(workers: int, context: Any, counts: Counts) -> Iterator[ProcessPoolExecutor]:
    """A process pool that cancels pending tasks on an error, and reports a killed worker in one line."""
    pool = ProcessPoolExecutor(workers, context, _start_worker, (counts,))
    try:
        yield pool
    except BrokenProcessPool:
        raise ShardError("a worker process was killed, perhaps for lack of memory: use fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


_counts: Counts | None = None
"""The counts of all workers; set in each of them."""


def _start_worker(counts: Counts) -> None:
    global _counts
    _counts = counts
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Exit when the parent process is killed; otherwise the worker would wait for tasks forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _write_in_worker(task: Task) -> Written:
    assert _counts is not None
    try:
        return write_shard(task, _counts)
    except BaseException:
        _counts.stopped.set()
        raise
