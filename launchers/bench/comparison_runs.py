"""Trains and evaluates the runs of a comparison, and measures their cost."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tomli_w

from bench_machine import facts
from comparison_jobs import Bench, Job
from measured_command import run_measured
from run_seconds import seconds_of_step
from uml_dist.evaluate import evaluate_split
from uml_dist.evaluate.results import DRAWS
from uml_dist.metrics.cases import Cases
from uml_dist.metrics.families import MetricFamily
from uml_dist.recipes import Trained
from uml_dist.run.load import load_run
from uml_dist.train.loading import loader_workers
from uml_shards.format.manifest import Manifest

HERE = Path(__file__).resolve().parent
BATCH_SIZE = 16


@dataclass(frozen=True)
class Cost:
    """The cost of a training run from a given step to its end, including process startup and validations.

    Attributes:
        from_step: the first step; 0 for a run that was not stopped.
        images: images trained on since that step.
        processor_seconds: user and system time of all its processes.
        wall_seconds: elapsed time.
        workers: number of ranks.
        machine: processor, instruction set, versions, date.
        peak_gigabytes: peak resident memory of the largest process, in 10^9 bytes; None if it was not measured.
    """

    from_step: int
    images: int
    processor_seconds: float
    wall_seconds: float
    workers: int
    machine: Mapping[str, str]
    peak_gigabytes: float | None = None


@dataclass(frozen=True)
class Evaluated:
    """The evaluation of a run.

    Attributes:
        job: the run.
        cases: cases of the evaluated split.
        manifest: manifest of that split.
        families: families of metrics of the recipe.
        parameters: number of parameters of the networks that are trained.
        step: step of the checkpoint that is evaluated.
        cost: cost of the training; None if the benchmark was killed before it was recorded.
        step_seconds: seconds of a training step, without validations and checkpoints; None if they were not logged.
    """

    job: Job
    cases: Cases
    manifest: Manifest
    families: Sequence[MetricFamily]
    parameters: int
    step: int
    cost: Cost | None
    step_seconds: float | None


def train(bench: Bench, job: Job) -> int:
    """Train with `launchers/train.py` from the newest checkpoint, unless the run is finished; return an exit code."""
    if job.is_done():
        print(f"{job.run} is trained already", flush=True)
        return 0
    before = job.step()
    job.run.mkdir(parents=True, exist_ok=True)
    config = job.run / "bench.toml"
    config.write_text(tomli_w.dumps(job.tree), encoding="utf-8")
    command = [sys.executable, str(bench.launcher), "--num_gpus", str(bench.ranks), "--run", str(job.run)]
    command += ["--config", str(config), *(["--cpu"] if bench.device == "cpu" else [])]
    folders = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]  # the workers import plain_unet
    clock = time.perf_counter()
    code, used = run_measured(command, {**os.environ, "PYTHONPATH": os.pathsep.join(folders)})
    if code:
        return code if code in (1, 2) else 1
    if not job.is_done():
        print(f"error: {job.run} ended before its last step: repeat the same command to resume it", file=sys.stderr)
        return 1
    if before < job.setup.steps and used is not None:
        images = (job.setup.steps - before) * job.setup.config.streams[job.setup.first_stream].count
        seconds = (used.processor_seconds, time.perf_counter() - clock)
        cost = Cost(before, images, *seconds, bench.ranks, facts(), used.peak_gigabytes)
        (job.run / "cost.json").write_text(json.dumps(asdict(cost), indent=1) + "\n", encoding="utf-8")
    return 0


def evaluate(bench: Bench, job: Job) -> Evaluated:
    """Evaluate a checkpoint of a run on a split, as `launchers/evaluate.py` does."""
    run = load_run(job.run, bench.checkpoint, bench.device)
    split = run.open_split(bench.split)
    workers, _ = loader_workers(run.config, bench.device == "cuda", 1)
    cases = evaluate_split(run.predictor, run.stream(split), BATCH_SIZE, workers, DRAWS)
    trained = [name for name, network in run.recipe.networks.items() if isinstance(network, Trained)]
    parameters = sum(one.numel() for name in trained for one in run.networks[name].parameters())
    path = job.run / "cost.json"
    cost = Cost(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
    families, step = run.recipe.families, run.state.step
    return Evaluated(job, cases, split.manifest, families, parameters, step, cost, seconds_of_step(job.run))
