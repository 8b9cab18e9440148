"""The starts of a run are counted, and its productive seconds survive a resume exactly."""

import json

import pytest

from runs import uml_tree
from uml_dist.config.loading import validate
from uml_dist.run.folder import RunFolder
from uml_dist.run.history import History, read_history


@pytest.fixture
def config(partly_known):
    return validate(uml_tree(partly_known), "test")


def started(path, config, step: int, at: float) -> RunFolder:
    folder = RunFolder(path, writes=True)
    folder.started = at
    folder.begin(config, step)
    return folder


def test_a_run_without_starts_begins_with_this_one(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 5, "productive_seconds": 9.0}) + "\n")
    assert read_history(tmp_path, 5, 100.0) == History(1, 100.0, 0.0)
    assert read_history(tmp_path / "absent", 0, 100.0) == History(1, 100.0, 0.0)


def test_steps_that_a_resume_repeats_do_not_count(tmp_path, config):
    first = started(tmp_path, config, 0, 1000.25)
    for step in range(1, 8):
        first.append_metrics({"step": step, "loss": 0.5, "productive_seconds": 2.5 * step})
        first.append_metrics({"step": step, "validation_dice": 0.5})
    assert read_history(tmp_path, 4, 2000.0) == History(2, 1000.25, 10.0)
    started(tmp_path, config, 4, 2000.0)
    assert read_history(tmp_path, 4, 3000.0) == History(3, 1000.25, 10.0)
    started(tmp_path, config, 0, 3000.0)  # the checkpoints were lost
    assert read_history(tmp_path, 0, 4000.0) == History(4, 1000.25, 0.0)


@pytest.mark.parametrize("torn", ['{"attempt": 2, "st', "null", '{"attempt": "2", "time": 5}', '{"time": NaN}', "\0"])
def test_a_line_that_a_kill_cut_short_costs_no_other(tmp_path, config, torn):
    started(tmp_path, config, 0, 1000.0)
    with (tmp_path / "starts.jsonl").open("a") as stream:
        stream.write(torn)
    started(tmp_path, config, 0, 2000.0)
    assert read_history(tmp_path, 0, 3000.0) == History(3, 1000.0)


def test_other_ranks_write_no_starts(tmp_path, config):
    RunFolder(tmp_path, writes=False).begin(config, 0)
    assert not list(tmp_path.iterdir())
