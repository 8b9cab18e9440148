"""Runs one training of the check with `launchers/train.py`, as a user would, and reads its run folder."""

import math
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from ..run.checkpoint_folder import folder_name
from ..run.reader import json_objects
from .process import run_process

WARM_UP = 2
"""First steps to leave out of the speed: they load libraries and choose algorithms."""


SMALLEST_SHARE = 1e-4
"""Smallest share of a step spent computing instead of waiting: the resolution of logged shares."""


@dataclass(frozen=True)
class Work:
    """The work that all training runs of a check have in common.

    Attributes:
        launcher: path of `launchers/train.py`.
        folder: folder of the check, with the subfolders `trainings`, `logs` and `shards`.
        cpu: whether to use CPU processes.
        size: height and width of the images.
        batch: images per step over all ranks.
        width: width factor of the model.
        steps: steps of a training run.
    """

    launcher: Path
    folder: Path
    cpu: bool
    size: int
    batch: int
    width: float
    steps: int

    @property
    def shards(self) -> Path:
        """Folder of the phantom shards."""
        return self.folder / "shards"

    @property
    def half(self) -> int:
        """The step after which the resumed run begins."""
        return self.steps // 2

    @property
    def settings(self) -> list[str]:
        """Settings shared by all training runs, which must therefore have the same losses."""
        return [
            *(f"streams.train.shards={self.shards}", f"streams.train.count={self.batch}", f"train.steps={self.steps}"),
            *("train.log_every=1", "train.validate_every=1000000", "optimizer.warmup=2"),
            *("model.profile=compact", f"model.width={self.width}", "metrics.enabled=false"),
        ]


@dataclass(frozen=True)
class Training:
    """A training run.

    Attributes:
        name: name of its run folder.
        ranks: number of workers.
        stage: ZeRO stage.
        saves: whether to also save a checkpoint in the middle.
        resumes: name of the run to resume from its middle; None to start a new one.
    """

    name: str
    ranks: int
    stage: int = 1
    saves: bool = False
    resumes: str | None = None

    def __str__(self) -> str:
        middle = ", resumed in the middle of the first one" if self.resumes else ""
        return f"ZeRO {self.stage} on {self.ranks} rank{'s' if self.ranks > 1 else ''}{middle}"


@dataclass(frozen=True)
class Outcome:
    """The result of a training run.

    Attributes:
        losses: loss by step.
        speeds: images/s over all ranks, by step.
        waits: share of a step in which rank 0 waited for data, by step.
        problem: why the result is incomplete; None if it is complete.
        hung: whether the run exceeded the time limit.
    """

    losses: Mapping[int, float] = field(default_factory=dict)
    speeds: Mapping[int, float] = field(default_factory=dict)
    waits: Mapping[int, float] = field(default_factory=dict)
    problem: str | None = None
    hung: bool = False

    @property
    def speed(self) -> float:
        """Median images/s after warm-up."""
        return _after_warm_up(self.speeds)

    @property
    def speed_without_loading(self) -> float:
        """Median images/s after warm-up, without the time spent waiting for data."""
        shares = {step: max(1 - self.waits[step], SMALLEST_SHARE) for step in self.speeds}
        return _after_warm_up({step: speed / shares[step] for step, speed in self.speeds.items()})

    @property
    def wait(self) -> float:
        """Median share of time spent waiting for data, after warm-up."""
        return _after_warm_up(self.waits)


def _after_warm_up(values: Mapping[int, float]) -> float:
    kept = [values[step] for step in sorted(values)]
    return median(kept[min(WARM_UP, len(kept) - 1) :]) if kept else math.nan


def make_shards(script: Path, work: Work) -> None:
    """Make the phantom shards with `launchers/shards.py`: two batches for training, a few images for validation.

    Raises:
        UmlError: the user must change something.
        RuntimeError: it failed for another reason.
    """
    counts = [f"train={2 * work.batch}", "val=8", "test=8"]
    words = ["make", "--dataset", "phantom", "--quiet", "--size", str(work.size), "--count", *counts]
    command = [sys.executable, str(script), *words, "--out", str(work.shards)]
    ended = run_process(command, work.folder / "logs" / "shards.log")
    if ended.problem:
        raise RuntimeError(f"shards could not be made: {ended.problem}")


def train(training: Training, work: Work) -> Outcome:
    """Train, and read the run folder.

    Raises:
        UmlError: the user must change something.
    """
    run = work.folder / "trainings" / training.name
    begins = 0
    if training.resumes:
        begins = work.half
        if not rewind(work.folder / "trainings" / training.resumes, run, begins):
            return Outcome(problem=f"training {training.resumes} left no checkpoint of step {begins}")
    command = [sys.executable, str(work.launcher), "--num_gpus", str(training.ranks), "--run", str(run)]
    command += ["--cpu"] if work.cpu else []
    command += ["--resume", "auto"] if training.resumes else []
    every = work.half if training.saves else work.steps
    command += [*work.settings, f"zero.stage={training.stage}", f"checkpoint.every={every}"]
    # A single process would otherwise use one thread per core, and its speed would not be comparable.
    variables = {"OMP_NUM_THREADS": "1"} if work.cpu else {}
    ended = run_process(command, work.folder / "logs" / f"{training.name}.log", variables=variables)
    records = [one for one in json_objects(run / "metrics.jsonl") if "loss" in one and one["step"] > begins]
    return Outcome(
        losses={int(record["step"]): record["loss"] for record in records},
        speeds={int(record["step"]): record["images_per_second"] for record in records},
        waits={int(record["step"]): record["data_wait"] for record in records},
        problem=ended.problem,
        hung=ended.hung,
    )


def rewind(run: Path, target: Path, step: int) -> bool:
    """Copy a run as if killed after saving a step's checkpoint; return false if that checkpoint is missing."""
    checkpoint = run / "checkpoints" / folder_name(step)
    if not checkpoint.is_dir():
        return False
    shutil.copytree(checkpoint, target / "checkpoints" / checkpoint.name)
    (target / "checkpoints" / "latest").write_text(checkpoint.name + "\n")
    shutil.copy(run / "metrics.jsonl", target)
    return True
