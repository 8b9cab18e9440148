"""Compares the model of `--dry-run --gpus` with trainings on 1, 2 and 4 CPU processes.

They are predicted from two trainings on one process, with other global batches, and from a measured all-reduce.
"""

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median

from scale_world import make_phantom, train
from uml_dist.cluster.all_reduce import read_collectives
from uml_dist.cluster.process import run_process
from uml_dist.config.loading import read_config
from uml_dist.errors import UmlError
from uml_dist.recipes import Trained, networks_of
from uml_dist.scale.links import Link, Links
from uml_dist.scale.measured import read_measured
from uml_dist.scale.model import Measured, Network, predict
from uml_dist.scale.report import network_of
from uml_dist.train.setup import prepare

CHECK = Path(__file__).parents[1] / "cluster_check.py"
RANKS = (1, 2, 4)
REPEATS = 5
"""Measurements of all-reduces, of which the median counts: small ones differ by a factor of ten between processes."""

COUNT = 16
"""Samples of a global batch of the trainings that are predicted."""

COUNTS = (4, 64)
"""Samples of a global batch of the trainings on one process, from which they are predicted."""

COLUMNS = (
    "parameters",
    "stage",
    "ranks",
    "predicted_seconds",
    "measured_seconds",
    "ratio",
    "communication_seconds",
    "latency",
    "rate",
)


def fit_link(folder: Path) -> Link:
    """Measure all-reduces of two processes of several sizes, and return the link that explains them."""
    seconds = defaultdict(list)
    for number in range(REPEATS):
        path = folder / f"all_reduce_{number}.json"
        command = [sys.executable, str(CHECK), "--ranks", "2", "--cpu", "--all-reduce", str(path)]
        ended = run_process(command, folder / "all_reduce.log")
        if ended.problem or not path.is_file():
            raise UmlError(f"the all-reduces have failed: {ended.problem or 'no result'}")
        for row in read_collectives(path).rows:
            seconds[row.bytes].append(row.seconds)
    times = {size: median(found) for size, found in seconds.items()}
    smallest, largest = min(times), max(times)
    # Two ranks all-reduce S bytes in 2 latency + S / rate seconds.
    rate = (largest - smallest) / (times[largest] - times[smallest])
    return Link(max(times[smallest] - smallest / rate, 0.0) / 2, rate)


def measured_run(
    folder: Path, shards: Path, ranks: int, stage: int, count: int, options: argparse.Namespace
) -> tuple[Measured, list[Network]]:
    """Train, and return the measured step and what it communicates."""
    words = [
        *options.settings,
        f"streams.train.count={count}",
        f"train.steps={options.steps}",
        f"zero.stage={stage}",
        "train.log_every=10",
    ]
    words += ["metrics.enabled=true", "metrics.targets_dir="]
    folder.mkdir()
    training = train(folder, shards, ranks, words)
    if training.wait() != 0:
        lines = (folder / "log").read_text(errors="replace").splitlines()
        raise UmlError(f"the training on {ranks} processes has failed: {lines[-1] if lines else 'no output'}")
    recipe = prepare(read_config(folder / "run" / "config.toml"), ranks).recipe
    trained = [network for network in networks_of(recipe).values() if isinstance(network, Trained)]
    return read_measured(folder / "run"), [network_of(network.build()) for network in trained]


def measure(options: argparse.Namespace) -> list[list[str]]:
    """Return a table with a row for each stage and number of ranks."""
    rows, cores = [[*COLUMNS]], os.cpu_count() or 1
    with tempfile.TemporaryDirectory(dir=options.out, prefix=".scale.") as name:
        folder = Path(name).resolve()
        shards, link = make_phantom(folder / "phantom", 256), fit_link(folder)
        links = Links(max(RANKS), link, link)
        for stage in (1, 3):
            runs = [measured_run(folder / f"{stage}-1-{count}", shards, 1, stage, count, options) for count in COUNTS]
            alone, networks = [one for one, _ in runs], runs[0][1]
            size = sum(network.parameters for network in networks)
            for ranks in RANKS:
                found, _ = measured_run(folder / f"{stage}-{ranks}", shards, ranks, stage, COUNT, options)
                # More ranks than cores take turns.
                turns = max(1.0, ranks / cores)
                base = [replace(one, step=one.step * turns, update=one.update * turns) for one in alone]
                one = predict(base, networks, stage, ranks, COUNT, links, links)
                figures = (one.step, found.step, one.step / found.step, one.communication, link.latency)
                rows.append(
                    [str(size), str(stage), str(ranks), *(f"{figure:.5f}" for figure in figures), f"{link.rate:.4g}"]
                )
    return rows
