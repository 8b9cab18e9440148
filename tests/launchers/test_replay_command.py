"""A training whose weights have exploded ends with the command that repeats its last step."""

import subprocess
import sys
from pathlib import Path

import pytest

from uml_dist.run.reader import read_status

pytestmark = [pytest.mark.launch, pytest.mark.fault]

TRAIN = Path(__file__).parents[2] / "launchers" / "train.py"


def test_a_step_that_was_not_finite_is_repeated(partly_known, tmp_path):
    run, start = tmp_path / "run", [sys.executable, str(TRAIN), "--num_gpus", "1", "--cpu"]
    words = [f"streams.train.shards={partly_known}", "streams.train.count=4", "model.width=0.0625"]
    words += ["optimizer.lr=100", "optimizer.weight_decay=0.9", "optimizer.warmup=0", "train.steps=20"]
    words += ["train.validate_every=1000", "faults.skipped_steps=2", "metrics.enabled=false"]
    done = subprocess.run([*start, "--run", str(run), *words], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    command = "repeat it with train.py --replay "
    assert line.startswith("error: rank 0: 2 steps in a row had a gradient that is not finite")
    assert read_status(run)["status"] == "failed"
    left = line.partition(command)[2]
    again = subprocess.run([*start, "--replay", left], capture_output=True, text=True)
    assert again.returncode == 2, again.stderr
    first, images, terms, gradient = again.stdout.splitlines()[-4:]
    assert first.endswith("of uml, repeated on 1 ranks:")
    assert images == "images that are not finite: none"
    assert "loss" in terms or "uml" in terms
    assert gradient.startswith("gradient of uml: ")
    refused = subprocess.run([*start, "--replay", left, "train.steps=3"], capture_output=True, text=True)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
