"""Measures a training on many CPU processes: the seconds until its first step, and the memory of its ranks."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil

from uml_dist.errors import UmlError
from uml_shards.importers import Options, find_importer
from uml_shards.write.writer import write_split

TRAIN = Path(__file__).parents[1] / "train.py"
STEPS = 3
LIMIT_SECONDS = 3600
COLUMNS = ("ranks", "cores", "first_step_seconds", "seconds", "rank_rss_bytes", "rank_pss_bytes", "all_pss_bytes")
TOY = ("model.width=0.0625", "data.workers=0", "metrics.enabled=false", "train.log_every=1", "checkpoint.every=1000000")


def make_phantom(folder: Path, samples: int) -> Path:
    """Write small phantom shards."""
    importer = find_importer("phantom")(None, Options(size=32, counts={"train": samples, "val": 16, "test": 0}))
    for split in ("train", "val"):
        write_split(importer, split, importer.splits()[split], folder / split, samples_per_shard=64, quiet=True)
    return folder


def train(folder: Path, shards: Path, ranks: int, words: list[str]) -> subprocess.Popen[bytes]:
    """Start a training of the phantom on CPU processes, whose output goes to `log` in the folder."""
    settings = [f"streams.train.shards={shards}", "train.validate_every=1000000", *TOY, *words]
    command = [sys.executable, str(TRAIN), "--num_gpus", str(ranks), "--cpu", "--run", str(folder / "run"), *settings]
    with (folder / "log").open("wb") as log:
        # One rank alone would otherwise use all cores, several of them one each.
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


def ranks_of(training: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the processes of the ranks, which the launcher has started."""
    try:
        return psutil.Process(training.pid).children()
    except psutil.NoSuchProcess:
        return []


def measure(options: argparse.Namespace) -> list[list[str]]:
    """Return a table with one row."""
    ranks, sizes = options.processes, []
    with tempfile.TemporaryDirectory(dir=options.out, prefix=".scale.") as name:
        folder = Path(name).resolve()
        shards = make_phantom(folder / "phantom", 4 * ranks)
        begin, first = time.perf_counter(), None
        words = [f"streams.train.count={ranks}", f"train.steps={STEPS}", "faults.pause_seconds=3600"]
        training = train(folder, shards, ranks, words)
        try:
            while training.poll() is None and time.perf_counter() - begin < LIMIT_SECONDS:
                if first is None and "step 1/" in (folder / "log").read_text(errors="replace"):
                    first = time.perf_counter() - begin
                    sizes = _sizes(ranks_of(training))
                time.sleep(0.2)
            seconds = time.perf_counter() - begin
            if training.poll() != 0 or first is None or len(sizes) != ranks:
                lines = (folder / "log").read_text(errors="replace").splitlines()
                raise UmlError(f"the training on {ranks} processes has failed: {lines[-1] if lines else 'no output'}")
        finally:
            for process in [*ranks_of(training), psutil.Process(training.pid)] if training.poll() is None else ():
                process.kill()
            training.wait()
    resident, proportional = (list(column) for column in zip(*sizes, strict=True))
    figures = [f"{first:.1f}", f"{seconds:.1f}"]
    memory = [str(round(median(resident))), str(round(median(proportional))), str(sum(proportional))]
    return [[*COLUMNS], [str(ranks), str(os.cpu_count()), *figures, *memory]]


def _sizes(processes: list[psutil.Process]) -> list[tuple[int, int]]:
    """Return resident bytes of each process, and its share of them: pages of several processes are divided."""
    found = []
    for process in processes:
        try:
            about = process.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        found.append((about.rss, about.pss))
    return found
