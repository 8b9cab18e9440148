"""Measures the start of ranks on a split of many shards: seconds and memory of each process."""

import argparse
import hashlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from uml_dist.errors import UmlError
from uml_shards import Cache, open_split
from uml_shards.format.index import NO_LABEL, index_dtype, save_index
from uml_shards.format.manifest import Manifest, Shard, Statistics
from uml_shards.read.plan import Plan, owned_slots

SAMPLES, COMPONENTS = 1000, ("jpg", "json", "mask.png")
BATCH = 8
"""Samples of each rank in a global batch."""

LINKS = 50_000
"""Names of one file; ext4 allows 65 000."""

PROCESSES = 4
COLUMNS = ("process", "samples", "shards", "ranks", "open_seconds", "open_processor_seconds", "first_batch_seconds")
MEMORY = ("rss_bytes", "private_bytes", "shared_bytes")


def make_split(path: Path, shards: int) -> None:
    """Create a split whose tars are sparse files without data, most of them links to the same one."""
    index = np.zeros(SAMPLES, index_dtype(len(COMPONENTS)))
    index["label"], index["base"] = NO_LABEL, np.arange(SAMPLES) * 65536
    index["start"], index["size"] = (512, 40000, 45000), (30000, 300, 2000)
    entries, first, digest = [], "", ""
    for number in range(shards):
        name = f"shard-{number:06d}"
        if number % LINKS == 0:
            first = name
            save_index(index, path / f"{name}.index.npy")
            digest = hashlib.sha256((path / f"{name}.index.npy").read_bytes()).hexdigest()
            with (path / f"{name}.tar").open("wb") as file:
                file.truncate(SAMPLES * 65536)
        else:
            for ending in ("index.npy", "tar"):
                os.link(path / f"{first}.{ending}", path / f"{name}.{ending}")
        entries.append(
            Shard(
                name=f"{name}.tar", bytes=SAMPLES * 65536, sha256="0" * 64, samples=SAMPLES, index=f"{name}.index.npy",
                index_sha256=digest,
            )
        )  # fmt: skip
    Manifest(
        dataset="many", split="train", channels=3, size=(256, 256), components=COMPONENTS, labelled=0, masked=0,
        statistics=Statistics(mean=(0.5,) * 3, std=(0.2,) * 3), licence="none", source="none", shards=tuple(entries),
    ).save(path)  # fmt: skip


def memory() -> tuple[int, int, int]:
    """Return the resident bytes of this process: all, its own, and those that it shares or could share."""
    fields = dict.fromkeys(("Rss", "Private_Dirty", "Anonymous"), 0)
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.replace(":", " ").split()
        if name in fields:
            fields[name] = 1024 * int(value)
    # A mapped file that only one process has mapped yet counts as private, but it is the page cache's.
    own = max(fields["Anonymous"], fields["Private_Dirty"])
    return fields["Rss"], own, fields["Rss"] - own


def start(path: Path, cache: Path, rank: int, ranks: int, pipe: Connection) -> None:
    """Start a rank in the middle of an epoch; send its figures, and stay until the pipe closes."""
    before = memory()
    wall, used = time.perf_counter(), time.process_time()
    split = open_split(path, Cache(cache))
    opened = time.perf_counter() - wall, time.process_time() - used
    wall = time.perf_counter()
    slots = BATCH * ranks
    plan = Plan(split.sizes(), slots, seed=1)
    step = 3 * plan.first_step(1) // 2
    for slot in owned_slots(slots, rank, ranks):
        shard, row = split.locate(plan.sample(step * slots + slot))
        split._indices[shard][row].item()
    batch = time.perf_counter() - wall
    grown = [after - earlier for after, earlier in zip(memory(), before, strict=True)]
    pipe.send((len(split), *opened, batch, *grown))
    pipe.poll(None)


def measure(options: argparse.Namespace) -> list[list[str]]:
    """Return a table with a row for each process."""
    context = multiprocessing.get_context("spawn")
    rows = [[*COLUMNS, *MEMORY]]
    with tempfile.TemporaryDirectory(dir=options.out, prefix=".scale.") as folder:
        path, cache, pipes = Path(folder) / "train", Path(folder) / "cache", []
        path.mkdir()
        make_split(path, options.shards)
        for number in range(PROCESSES):
            rank = number * options.ranks // PROCESSES
            receiver, sender = context.Pipe()
            process = context.Process(target=_start, args=(start, path, cache, rank, options.ranks, sender))
            process.start()
            sender.close()
            pipes.append((process, receiver))
            try:
                samples, *figures = receiver.recv()
            except EOFError:
                raise UmlError(f"the process of rank {rank} has ended before it was measured") from None
            seconds, sizes = [f"{figure:.4f}" for figure in figures[:3]], [str(size) for size in figures[3:]]
            rows.append([f"{number + 1}", str(samples), str(options.shards), str(options.ranks), *seconds, *sizes])
        for process, receiver in pipes:
            receiver.close()
            process.join()
    return rows


def _start(function: Callable[..., None], *arguments: object) -> None:
    """Call a function; a closed pipe ends it quietly."""
    try:
        function(*arguments)
    except (EOFError, BrokenPipeError):
        pass
