"""Training runs with damaged checkpoints or a full disk, as a user sees them."""

import json
from pathlib import Path

import numpy as np
import pytest

from runs import uml_tree
from uml_dist.run.checkpoint import latest_valid, read_networks
from worldly import start_apart, train_as_the_command, train_as_the_command_with_a_small_disk
from worlds import run_world

pytestmark = [pytest.mark.distributed, pytest.mark.fault]


def words(shards):
    return uml_tree(shards, train__steps=4, checkpoint__every=2, checkpoint__keep=5, train__validate_every=4)


@pytest.fixture(scope="module")
def run(partly_known, tmp_path_factory) -> Path:
    """A run of four steps, with checkpoints after two and four."""
    folder = tmp_path_factory.mktemp("damaged") / "run"
    ((code, _, error),) = run_world(1, train_as_the_command, words(partly_known), str(folder))
    assert (code, error) == (0, "")
    return folder


def weights_of(run: Path):
    found = latest_valid(run / "checkpoints")
    assert found is not None
    assert found[0].name == "step-000004"
    # Copied because the tensors are mapped from the file, which a test will damage.
    return {name: tensor.clone().numpy() for name, tensor in read_networks(found[0])["uml"].weights.items()}


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_run_resumes_from_the_checkpoint_before_a_damaged_one_with_the_same_result(run, partly_known):
    before, losses = weights_of(run), [record.get("loss") for record in records(run)]
    path = run / "checkpoints" / "step-000004" / "uml.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    ((code, output, error),) = run_world(1, train_as_the_command, words(partly_known), str(run))
    assert (code, error) == (0, "")
    lines = [line for line in output.splitlines() if "resuming from" in line]
    assert len(lines) == 1
    assert "step-000004: uml.safetensors is missing or damaged: resuming from step-000002, which is valid" in lines[0]
    assert "resumed at step 2" in output
    after = weights_of(run)
    assert all(np.array_equal(after[name], tensor) for name, tensor in before.items())
    assert [record.get("loss") for record in records(run)] == losses


def check_failure(run: Path, code: int, error: str) -> dict:
    """Check that a training has ended because step 2 could not be saved; return status.json."""
    assert code == 2
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "checkpoints/step-000002 cannot be written: " in lines[0]
    assert lines[0].endswith(f"make room or fix the disk, then resume with --run {run}")
    assert "Traceback" not in error
    assert list((run / "checkpoints").iterdir()) == []
    return json.loads((run / "status.json").read_text())


def test_full_disk_ends_the_run_with_one_line_and_exit_code_2(partly_known, tmp_path):
    tree, run = words(partly_known) | {"checkpoint": {"every": 2, "background": False}}, tmp_path / "run"
    ((code, _, error),) = run_world(1, train_as_the_command, tree, str(run), 20_000)
    status = check_failure(run, code, error)
    assert (status["status"], status["step"]) == ("failed", 2)


def test_full_disk_ends_all_ranks_alike_if_it_is_written_to_in_the_background(partly_known, tmp_path):
    """It is full for the writer alone, as for every process that starts while the limit holds."""
    tree, run = words(partly_known) | {"checkpoint": {"every": 2}}, tmp_path / "run"
    answers = run_world(2, train_as_the_command_with_a_small_disk, tree, str(run))
    (code, output, error), (other, _, silence) = answers
    status = check_failure(run, code, error)
    assert status["status"] == "failed"
    assert status["step"] in (3, 4)  # after the step in which all ranks hear of it, or at the end
    assert "training waits" not in output
    assert (other, silence) == (2, "")


def test_ranks_with_different_checkpoints_do_not_start(run, partly_known):
    (first, error), second = run_world(2, start_apart, words(partly_known), str(run))
    assert first == 2
    assert error.startswith("error: ranks would ")
    assert "rank 0 step-00000" in error
    assert "rank 1 none" in error
    assert error.count("\n") == 1
    assert second == (0, "")
