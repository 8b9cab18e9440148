"""The best checkpoint by the mean of several metrics, with the real Trainer."""

import json
import re
import shutil

import pytest

from runs import uml_tree
from uml_dist.run.checkpoint import read_state
from uml_dist.run.checkpoint_folder import find_checkpoint
from worldly import train_as_the_command, train_with_figures
from worlds import run_world

MEAN = "mean(accuracy, dice)"

pytestmark = pytest.mark.distributed


def validations_of(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record for record in records if "validation_loss" in record}


def best_of(run):
    """Return the step of the run's best checkpoint, and the value by which it was chosen."""
    checkpoint = find_checkpoint(run, "best")
    assert checkpoint is not None
    state = read_state(checkpoint)
    assert state.best_step == state.step
    return state.best_step, state.best


def test_best_checkpoint_has_the_best_mean(partly_known, tmp_path):
    run = tmp_path / "run"
    words = {"train__best": " mean( accuracy,dice )", "train__empty_masks": "leave-out", "optimizer__lr": 0.02}
    tree = uml_tree(partly_known, train__steps=5, train__validate_every=1, checkpoint__every=1, **words)
    ((code, output, errors),) = run_world(1, train_as_the_command, tree, str(run))
    assert (code, errors) == (0, "")
    records = validations_of(run)
    means = {step: (one["validation_accuracy"] + one["validation_dice"]) / 2 for step, one in records.items()}
    assert sorted(means) == [1, 2, 3, 4, 5]
    step, value = best_of(run)
    assert step == max(means, key=lambda step: means[step])
    assert value == pytest.approx(means[step])
    for number, record in records.items():
        assert record[f"validation_{MEAN}"] == pytest.approx(means[number])
        assert record["empty_masks"] == "leave-out"
        assert re.search(
            rf"^validation at step {number}: .*  {re.escape(MEAN)} {means[number]:.4f}$", output, re.MULTILINE
        )


def test_metric_that_no_validation_can_compute_is_reported_at_the_first_and_at_the_end(partly_known, tmp_path):
    """The toy recipe predicts no pixels, which only becomes known in its validations."""
    run = tmp_path / "run"
    stream = {"shards": str(partly_known), "count": 8}
    tree = {
        "recipe": "toy",
        "streams": {"labelled": stream, "unlabelled": stream},
        "data": {"workers": 0},
        "train": {"steps": 2, "best": MEAN, "validate_every": 1},
        "metrics": {"enabled": False},
    }
    ((code, output, errors),) = run_world(1, train_as_the_command, tree, str(run))
    assert (code, errors) == (0, "")
    assert len(re.findall(rf"^validation at step \d: .*  {re.escape(MEAN)} not formed$", output, re.MULTILINE)) == 2
    assert (
        f"no validation could form train.best = {MEAN} (the last one lacked dice), so no checkpoint is the best"
        in output
    )
    lacks = "this validation lacks dice (it needs other cases or predictions): without"
    assert output.count(f"train.best = {MEAN} cannot be formed, since {lacks}") == 1
    assert output.index("validation at step 1:") < output.index("cannot be formed") < output.index("at step 2:")
    assert find_checkpoint(run, "best") is None


def figures(accuracy, dice):
    return {"accuracy": accuracy, "dice": dice}


def test_best_is_kept_over_a_resume_and_chosen_again_for_another_metric(partly_known, tmp_path):
    """Step 1 has the best accuracy, step 3 the best Dice, and step 2 the best mean."""
    first = [figures(0.9, 0.1), figures(0.7, 0.6), figures(0.1, 0.9)]
    then = [figures(0.6, 0.6)]
    tree = uml_tree(partly_known, train__steps=4, train__validate_every=1, train__best=MEAN, checkpoint__every=1)
    tree["train"] |= {"empty_masks": "one", "ema": 0.9}
    other = uml_tree(partly_known, train__steps=4, train__validate_every=1, train__best="accuracy", checkpoint__every=1)
    run_world(
        1, train_with_figures, [(one, str(tmp_path / name), first, 3) for one, name in ((tree, "m"), (other, "a"))]
    )
    assert best_of(tmp_path / "m") == (2, pytest.approx(0.65))
    assert best_of(tmp_path / "a") == (1, 0.9)

    cases = {
        "same": ("m", {"best": "mean(accuracy,  dice)"}, (2, pytest.approx(0.65))),
        "other": ("m", {"best": "dice"}, (4, 0.6)),
        "rule": ("m", {"best": MEAN, "empty_masks": "leave-out"}, (4, pytest.approx(0.6))),
        "weights": ("m", {"best": MEAN, "evaluate_with": "trained"}, (4, pytest.approx(0.6))),
        "irrelevant weights": ("m", {"best": MEAN, "evaluate_with": "averaged"}, (2, pytest.approx(0.65))),
        "irrelevant rule": ("a", {"best": "accuracy", "empty_masks": "leave-out"}, (1, 0.9)),
        "windows": ("m", {"best": MEAN}, (4, pytest.approx(0.6))),
    }
    jobs = []
    for name, (source, words, _) in cases.items():
        run = shutil.copytree(tmp_path / source, tmp_path / name)
        base = {"m": tree, "a": other}[source]
        windows = {"use": "always"} if name == "windows" else {"batch": 2}
        jobs.append(({**base, "train": {**base["train"], **words}, "windows": windows}, str(run), then, None))
    run_world(1, train_with_figures, jobs)
    assert {name: best_of(tmp_path / name) for name in cases} == {name: best for name, (_, _, best) in cases.items()}
