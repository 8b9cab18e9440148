"""Trains and evaluates the runs of the quality benchmark, and measures their cost."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import tomli_w
import torch

from quality_plan import Bench, Job
from uml_dist.evaluate import evaluate_split
from uml_dist.evaluate.results import DRAWS
from uml_dist.metrics.cases import Cases
from uml_dist.run.folder import versions
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
    """

    from_step: int
    images: int
    processor_seconds: float
    wall_seconds: float
    workers: int
    machine: Mapping[str, str]


@dataclass(frozen=True)
class Evaluated:
    """The evaluation of a run.

    Attributes:
        job: the run.
        cases: cases of the evaluated split.
        manifest: manifest of that split.
        parameters: number of parameters of the networks.
        step: step of the best checkpoint, which is evaluated.
        cost: cost of the training; None if the benchmark was killed before it was recorded.
    """

    job: Job
    cases: Cases
    manifest: Manifest
    parameters: int
    step: int
    cost: Cost | None


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
    processor, clock = _children_seconds(), time.perf_counter()
    code = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)}).returncode
    if code:
        return code if code in (1, 2) else 1
    if not job.is_done():
        print(f"error: {job.run} ended before its last step: repeat the same command to resume it", file=sys.stderr)
        return 1
    if before < job.setup.steps:
        images = (job.setup.steps - before) * job.setup.config.streams[job.setup.first_stream].count
        seconds = (_children_seconds() - processor, time.perf_counter() - clock)
        cost = Cost(before, images, *seconds, bench.ranks, _machine())
        (job.run / "cost.json").write_text(json.dumps(asdict(cost), indent=1) + "\n", encoding="utf-8")
    return 0


def evaluate(bench: Bench, job: Job) -> Evaluated:
    """Evaluate the best checkpoint of a run on a split, as `launchers/evaluate.py` does."""
    run = load_run(job.run, "best", bench.device)
    split = run.open_split(bench.split)
    workers, _ = loader_workers(run.config, bench.device == "cuda", 1)
    cases = evaluate_split(run.predictor, run.stream(split), BATCH_SIZE, workers, DRAWS)
    parameters = sum(one.numel() for network in run.networks.values() for one in network.parameters())
    path = job.run / "cost.json"
    cost = Cost(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
    return Evaluated(job, cases, split.manifest, parameters, run.state.step, cost)


def _children_seconds() -> float:
    """Return the user and system time of all ended child processes and their children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _machine() -> dict[str, str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    found = {"processor": next(names, "unknown"), "gpu": gpu, "cpu_capability": torch.backends.cpu.get_cpu_capability()}
    found |= {"date": time.strftime("%Y-%m-%d"), **versions()}
    try:
        return {**found, "monai": version("monai")}
    except PackageNotFoundError:
        return found
