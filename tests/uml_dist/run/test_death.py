"""A training that was killed is noted once, and never one that lives, has recorded its end, or may live elsewhere."""

import json
import subprocess
import sys

import pytest

from uml_dist.run.death import note_death
from uml_dist.run.folder import RunFolder
from uml_dist.run.owner import OWNER, Owner
from uml_dist.run.reader import read_status

DYING = "import os, sys; from pathlib import Path; from uml_dist.run.owner import Owner\n"
DYING += "owner = Owner(Path(sys.argv[1])); os.kill(os.getpid(), 9)"


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run", writes=True)


def kill_a_training(run: RunFolder) -> int:
    process = subprocess.Popen([sys.executable, "-c", DYING, str(run.path)])
    process.wait()
    run.write_status("running", 7)
    return process.pid


def test_a_killed_training_is_noted_once(run):
    process = kill_a_training(run)
    reason = f"process {process} has ended without a word: it was probably killed"
    assert note_death(run.path) == f"run {run.path}: {reason}, after step 7"
    status = read_status(run.path)
    assert (status["status"], status["step"], status["reason"]) == ("failed", 7, reason)
    assert note_death(run.path) is None


def test_a_training_that_lives_is_left_alone(run):
    owner = Owner(run.path)
    run.write_status("running", 7)
    assert note_death(run.path) is None
    assert read_status(run.path)["status"] == "running"
    owner.release()


@pytest.mark.parametrize("status", ["done", "stopped", "failed"])
def test_a_recorded_end_is_kept(run, status):
    kill_a_training(run)
    run.write_status(status, 9)
    assert note_death(run.path) is None
    assert read_status(run.path)["status"] == status


def test_a_training_on_another_machine_may_live(run):
    kill_a_training(run)
    owner = json.loads((run.path / OWNER).read_text())
    (run.path / OWNER).write_text(json.dumps(owner | {"host": "node7", "boot": "another"}))
    assert note_death(run.path) is None
    assert read_status(run.path)["status"] == "running"


@pytest.mark.parametrize("content", ["", "[]", '{"process": "5"}', "{"])
def test_a_damaged_record_tells_nothing(run, content):
    kill_a_training(run)
    (run.path / OWNER).write_text(content)
    assert note_death(run.path) is None
