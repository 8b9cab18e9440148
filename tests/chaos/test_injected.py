"""Faults that `[faults.inject]` brings into real trainings on two processes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chaotic import records_of
from uml_dist.config.faults import ALLOW

pytestmark = [pytest.mark.chaos, pytest.mark.fault]

TRAIN = Path(__file__).parents[2] / "launchers" / "train.py"
STEPS = 10
SETTINGS = ("model.width=0.0625", "train.log_every=1", "data.workers=0", "metrics.enabled=false", "checkpoint.every=2")


def train(shards: Path, run: Path, *words: str) -> subprocess.CompletedProcess[str]:
    settings = [f"streams.train.shards={shards}", "streams.train.count=4", f"train.steps={STEPS}", *SETTINGS]
    command = [sys.executable, str(TRAIN), "--num_gpus", "2", "--cpu", "--run", str(run), *settings, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def status_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())


def check_done(run: Path) -> None:
    assert status_of(run)["status"] == "done"
    assert [record["step"] for record in records_of(run)] == list(range(1, STEPS + 1))


def test_a_rank_that_hangs_is_named_and_the_training_is_started_again(partly_known, tmp_path, monkeypatch):
    monkeypatch.setenv(ALLOW, "1")
    run = tmp_path / "run"
    fault = ["faults.inject.kind=hang", "faults.inject.rank=1", "faults.inject.steps=[6]", "faults.step_seconds=10"]
    done = train(partly_known, run, "--restarts", "1", *fault)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("INJECTED FAULT: hang on rank 1 in step 6\n") == 1
    assert done.stderr.count("restart 1 of 1 without progress") == 1
    named = [line for line in done.stderr.splitlines() if line.startswith("error: rank 1 (process ")]
    assert len(named) == 1, done.stderr
    # The stack of the rank that hangs shows where it does.
    assert "faults.py" in (run / "faults" / "attempt-1" / "rank-1.stacks.txt").read_text()
    check_done(run)


def test_a_killed_writer_ends_the_training_in_one_line_and_its_checkpoint_is_passed_over(
    partly_known, tmp_path, monkeypatch
):
    monkeypatch.setenv(ALLOW, "1")
    run = tmp_path / "run"
    fault = ["faults.inject.kind=kill-writer", "faults.inject.steps=[4]"]
    first = train(partly_known, run, *fault)
    assert first.returncode == 2
    errors = [line for line in first.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, first.stderr
    assert "checkpoints/step-000004 cannot be written: its writer (process " in errors[0]
    assert "was ended by SIGKILL: resume with --run" in errors[0]
    assert "Traceback" not in first.stderr
    assert status_of(run)["status"] == "failed"
    assert [path.name for path in sorted((run / "checkpoints").glob("step-*[0-9]"))] == ["step-000002"]
    second = train(partly_known, run, *fault)
    assert second.returncode == 0, second.stderr
    assert "resumed at step 2" in second.stdout
    assert "INJECTED FAULT" not in second.stderr
    check_done(run)
