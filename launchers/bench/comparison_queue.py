"""Runs the jobs of a comparison one after the other; its options on the command line."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from comparison_jobs import Bench, Job
from comparison_results import Result, summarise
from comparison_runs import evaluate, train
from uml_dist.errors import UmlError
from uml_dist.launch import find_devices, planned_ranks, read_world

LAUNCHERS = Path(__file__).resolve().parents[1]


def add_options(parser: argparse.ArgumentParser, out: str) -> None:
    """Add the options that every comparison has; `out` is the default folder of runs and results."""
    parser.add_argument("--shards", help="folder or URL of the data set (default: as in the configuration)")
    parser.add_argument("--split", default="test", help="split to evaluate (default: test)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (default: 0 1 2)")
    parser.add_argument("--num_gpus", type=int, help="workers (default: all GPUs, else 2 CPU processes)")
    parser.add_argument("--cpu", action="store_true", help="use the CPU even if there are GPUs")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of runs and results (default: %(default)s)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def bench_of(options: argparse.Namespace, config: Path, checkpoint: str, program: str) -> Bench:
    """Return the shared options of the runs.

    Args:
        options: the parsed command line, with `settings` and what `add_options` adds.
        config: TOML file of the settings that the methods share.
        checkpoint: checkpoint to evaluate.
        program: the command without a launcher, for the error.

    Raises:
        UmlError: a launcher has started this process.
    """
    if read_world(os.environ):
        raise UmlError(f"run this without a launcher, it starts its workers itself: {program}")
    devices = find_devices(options.cpu)
    asked = options.num_gpus if options.num_gpus is not None else devices.count or 2
    return Bench(
        launcher=LAUNCHERS / "train.py",
        out=options.out,
        config=config,
        shards=options.shards,
        words=tuple(options.settings),
        split=options.split,
        ranks=planned_ranks(asked, options.cpu),
        device=devices.kind,
        checkpoint=checkpoint,
    )


def run_jobs(bench: Bench, jobs: Sequence[Job]) -> tuple[int, list[Result]]:
    """Train and evaluate every run; return the exit code and the results so far: the first failed training ends it."""
    results: list[Result] = []
    for number, job in enumerate(jobs, 1):
        print(f"\n{number} of {len(jobs)}: {job.method}, seed {job.seed}", flush=True)
        if code := train(bench, job):
            return code, results
        results.append(summarise(evaluate(bench, job)))
        print(f"{job.method}, seed {job.seed}: {main_metrics(results[-1])}", flush=True)
    return 0, results


def main_metrics(result: Result) -> str:
    """Format the main metrics of a run in one line."""
    names = {"dice": "Dice", "hd95": "95 % Hausdorff distance", "auroc": "AUROC", "accuracy": "accuracy"}
    return "  ".join(f"{title} {result.values[name]:.3f}" for name, title in names.items() if name in result.values)
