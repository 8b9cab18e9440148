"""One training of the check: a call of `launchers/train.py` as a user would make it, and what its run folder says."""

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from ..run.checkpoint_folder import folder_name
from .process import run_process

WARM_UP = 2
"""First steps of a training that its speed leaves out: they load libraries and choose algorithms."""


SMALLEST_SHARE = 1e-4
"""Of a step that computes instead of waiting: shares are logged with so many digits."""


@dataclass(frozen=True)
class Work:
    """What every training of a check does.

    Attributes:
        launcher: `launchers/train.py`.
        folder: of the check; its `trainings`, `logs` and `shards` are used.
        cpu: processes on the CPU.
        size: of the images.
        batch: images of a step on all ranks together.
        width: of the model.
        steps: of a training.
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
        """The phantom of the check."""
        return self.folder / "shards"

    @property
    def half(self) -> int:
        """The step after which the resumed training begins."""
        return self.steps // 2

    @property
    def settings(self) -> list[str]:
        """The same for all trainings, so that they have to have the same losses."""
        return [
            *(f"streams.train.shards={self.shards}", f"streams.train.count={self.batch}", f"train.steps={self.steps}"),
            *("train.log_every=1", "train.validate_every=1000000", "optimizer.warmup=2"),
            *("model.profile=compact", f"model.width={self.width}", "metrics.enabled=false"),
        ]


@dataclass(frozen=True)
class Training:
    """A training on so many ranks.

    Attributes:
        name: of its run folder.
        ranks: workers.
        stage: of ZeRO.
        saves: it leaves a checkpoint in the middle too.
        resumes: the training in the middle of which it begins; None for a fresh one.
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
    """What came of a training.

    Attributes:
        losses: by step.
        speeds: images/s of all ranks together, by step.
        waits: share of a step in which rank 0 waited for data, by step.
        problem: why there is not all of this; None where it is whole.
        hung: it did not come to an end.
    """

    losses: Mapping[int, float] = field(default_factory=dict)
    speeds: Mapping[int, float] = field(default_factory=dict)
    waits: Mapping[int, float] = field(default_factory=dict)
    problem: str | None = None
    hung: bool = False

    @property
    def speed(self) -> float:
        """Median images/s after the warm-up."""
        return _after_warm_up(self.speeds)

    @property
    def speed_without_loading(self) -> float:
        """The same, had no step waited for data."""
        shares = {step: max(1 - self.waits[step], SMALLEST_SHARE) for step in self.speeds}
        return _after_warm_up({step: speed / shares[step] for step, speed in self.speeds.items()})

    @property
    def wait(self) -> float:
        """Median share of waiting for data after the warm-up."""
        return _after_warm_up(self.waits)


def _after_warm_up(values: Mapping[int, float]) -> float:
    kept = [values[step] for step in sorted(values)]
    return median(kept[min(WARM_UP, len(kept) - 1) :]) if kept else math.nan


def make_shards(script: Path, work: Work) -> None:
    """Make the phantom of the check by `launchers/shards.py`: two batches to train on, few images to validate on.

    Raises:
        UmlError: the user must change something.
        RuntimeError: it failed otherwise.
    """
    counts = [f"train={2 * work.batch}", "val=8", "test=8"]
    words = ["make", "--dataset", "phantom", "--quiet", "--size", str(work.size), "--count", *counts]
    command = [sys.executable, str(script), *words, "--out", str(work.shards)]
    ended = run_process(command, work.folder / "logs" / "shards.log")
    if ended.problem:
        raise RuntimeError(f"no shards could be made: {ended.problem}")


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
    # One process alone would otherwise compute in as many threads as there are cores, and be no measure of one.
    variables = {"OMP_NUM_THREADS": "1"} if work.cpu else {}
    ended = run_process(command, work.folder / "logs" / f"{training.name}.log", variables=variables)
    records = [record for record in read_records(run / "metrics.jsonl") if record["step"] > begins]
    return Outcome(
        losses={int(record["step"]): record["loss"] for record in records},
        speeds={int(record["step"]): record["images_per_second"] for record in records},
        waits={int(record["step"]): record["data_wait"] for record in records},
        problem=ended.problem,
        hung=ended.hung,
    )


def rewind(run: Path, target: Path, step: int) -> bool:
    """Copy a run as it would be had it been killed after the checkpoint of a step; false if that one is not there."""
    checkpoint = run / "checkpoints" / folder_name(step)
    if not checkpoint.is_dir():
        return False
    shutil.copytree(checkpoint, target / "checkpoints" / checkpoint.name)
    (target / "checkpoints" / "latest").write_text(checkpoint.name + "\n")
    shutil.copy(run / "metrics.jsonl", target)
    return True


def read_records(path: Path) -> Sequence[Mapping[str, float]]:
    """The lines of a `metrics.jsonl` that tell of training steps."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return [record for record in map(json.loads, lines) if "loss" in record]
