"""The Trainer is independent of the recipe: two engines, an average, a frozen copy, two streams and two phases."""

import json

import numpy as np
import pytest

from plain import train_plainly
from runs import train
from toy_recipe import STEPS, toy_tree
from uml_dist import load_run
from uml_dist.evaluate import evaluate
from uml_dist.evaluate.results import metrics_record, write_cases
from uml_dist.run.checkpoint import read_state
from uml_dist.run.checkpoint_folder import step_of
from uml_dist.run.export import export
from worldly import train_each, train_validating
from worlds import run_world

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def plain(partly_known):
    """The same two phases in plain torch."""
    return run_world(1, train_plainly, toy_tree(partly_known))[0]


@pytest.fixture(scope="module")
def stages(partly_known):
    return run_world(2, train_each, [toy_tree(partly_known, stage) for stage in range(4)])[0]


def test_two_engines_in_two_phases_train_like_plain_torch_at_every_stage(stages, plain):
    for trace in stages:
        assert len(trace.losses) == STEPS
        assert max(abs(a - b) for a, b in zip(trace.losses, plain.losses, strict=True)) <= 1e-6
        assert list(trace.weights) == ["student", "critic", "teacher", "before", "critic.ema"]
        for name in trace.weights:
            np.testing.assert_allclose(trace.weights[name], plain.weights[name], rtol=0, atol=2e-6)


def test_the_averages_lag_and_the_frozen_copy_is_from_the_start_of_the_phase(stages):
    trace = stages[0]
    assert not np.array_equal(trace.weights["teacher"], trace.weights["student"])
    assert not np.array_equal(trace.weights["critic.ema"], trace.weights["critic"])
    assert not np.array_equal(trace.weights["before"], trace.weights["student"])


def test_the_critic_waits_for_its_phase_and_skips_the_steps_in_which_it_has_no_loss(stages):
    learnt = ["critic" in terms for terms in stages[0].terms]
    assert learnt == [*[False] * 4, True, False, True, True]


def test_pseudo_labels_are_counted_over_the_global_batch(stages):
    shares = [terms["confident"] for terms in stages[0].terms[STEPS // 2 :]]
    assert all(0 < share < 1 for share in shares), "the counts of this test select nothing, or everything"
    assert shares == pytest.approx([round(8 * share) / 8 for share in shares])


@pytest.mark.parametrize("stage", [1, 3])
def test_run_resumes_bit_for_bit_in_each_phase_and_between_them(stage, stages, partly_known, tmp_path):
    straight = stages[stage]
    tree = toy_tree(partly_known, stage)
    run = str(tmp_path / "run")
    losses = []
    for stop_at in (2, STEPS // 2, STEPS - 1, None):
        trace = run_world(2, train, tree, run, False, stop_at)[0]
        losses += trace.losses
    assert losses == straight.losses
    for name, weights in straight.weights.items():
        assert np.array_equal(trace.weights[name], weights), name


def records_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_has_several_validations_each_with_a_split_a_size_and_a_best_checkpoint(partly_known, tmp_path):
    tree = toy_tree(partly_known, validate_every=2, best="confidence")
    tree["validations"] = {
        "small": {"size": 16, "best": "loss"},
        "training": {"stream": "unlabelled", "split": "train", "best": "accuracy"},
    }
    run_world(2, train_validating, tree, str(tmp_path / "run"))
    folder = tmp_path / "run" / "checkpoints"
    validations = [record for record in records_of(tmp_path / "run") if "validation_confidence" in record]
    small = [record for record in records_of(tmp_path / "run") if "validation_small.loss" in record]
    training = [record for record in records_of(tmp_path / "run") if "validation_training.accuracy" in record]
    assert len(validations) == len(small) == len(training) == STEPS // 2
    assert validations[-1]["validation_loss"] != small[-1]["validation_small.loss"]

    def best_step(pointer):
        return step_of(folder / (folder / pointer).read_text().strip())

    assert best_step("best") == max(validations, key=lambda one: one["validation_confidence"])["step"]
    assert best_step("best-small") == min(small, key=lambda one: one["validation_small.loss"])["step"]
    assert best_step("best-training") == max(training, key=lambda one: one["validation_training.accuracy"])["step"]
    assert load_run(tmp_path / "run", "best-small", "cpu").state.step == best_step("best-small")
    export(tmp_path / "run", tmp_path / "weights", "best-small")
    assert read_state(tmp_path / "weights").step == best_step("best-small")
    assert {path.name for path in (tmp_path / "run" / "evaluation").iterdir()} == {"val", "small-val", "training-train"}


def test_a_metric_family_of_a_recipe_is_evaluated_like_the_standard_ones(partly_known, tmp_path):
    run_world(1, train_validating, toy_tree(partly_known, best="confidence"), str(tmp_path / "run"))
    run = load_run(tmp_path / "run", device="cpu")
    result = evaluate(run.predictor, run.stream(run.open_split("val")), 4, draws=100)
    record = metrics_record(result)
    assert record["metrics"]["confidence"] == run.state.best
    assert record["intervals"]["confidence"][0] < run.state.best < record["intervals"]["confidence"][1]
    assert record["definitions"]["confidence"].startswith("probability of the most probable class")
    write_cases(tmp_path / "cases.csv", result)
    assert (tmp_path / "cases.csv").read_text().partition("\n")[0].endswith(",confidence")


def test_phases_have_counts_of_their_own_and_resume_bit_for_bit(partly_known, tmp_path):
    tree = toy_tree(partly_known)
    tree["phases"] = [{"name": "both", "counts": {"labelled": 6, "unlabelled": 2}}]
    straight = run_world(2, train, tree)
    sizes = [[len(keys) for keys in trace.keys] for trace in straight]
    assert sizes[0] == sizes[1] == [2] * 4 + [3, 1] * 4
    losses = []
    for stop_at in (STEPS // 2 + 1, None):
        losses += run_world(2, train, tree, str(tmp_path / "run"), False, stop_at)[0].losses
    assert losses == straight[0].losses
    # The second phase begins at the next position that its six slots divide: 18, after 4 steps of 4.
    state = read_state(tmp_path / "run" / "checkpoints" / f"step-{STEPS:06d}")
    assert state.positions == {"labelled": 18 + 4 * 6, "unlabelled": 4 * 2}


@pytest.mark.parametrize("stop_at", [None, 3])
def test_a_phase_ends_when_its_metric_stops_improving(stop_at, partly_known, tmp_path):
    """Accuracy on 12 images stays the same at this learning rate, so the phase ends after two more validations."""
    tree = toy_tree(partly_known, validate_every=1)
    tree["optimizer"]["lr"] = 1e-9
    tree["phases"] = [{"name": "supervised", "until": "accuracy", "patience": 2}]
    for stop in dict.fromkeys((stop_at, None)):
        traces = run_world(2, train, tree, str(tmp_path / "run"), True, stop)
    records = [record for record in records_of(tmp_path / "run") if "loss" in record]
    assert [record["phase"] for record in records] == ["supervised"] * 3 + ["both"] * 4
    assert [record["step"] for record in records] == list(range(1, 8))
    assert len({tuple(trace.losses) for trace in traces}) == 1, "ranks ended the phase at different steps"
    assert read_state(tmp_path / "run" / "checkpoints" / "step-000007").phase == 1


def test_accumulation_with_two_streams_changes_nothing(partly_known, plain):
    trace = run_world(1, train, toy_tree(partly_known, 2, micro_batch=3))[0]
    assert max(abs(a - b) for a, b in zip(trace.losses, plain.losses, strict=True)) <= 1e-6
    for name, weights in plain.weights.items():
        np.testing.assert_allclose(trace.weights[name], weights, rtol=0, atol=2e-6)
