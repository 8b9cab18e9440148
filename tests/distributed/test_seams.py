"""The Trainer is independent of the recipe: two engines, an average, a frozen copy, two streams and two phases."""

import numpy as np
import pytest

from plain import train_plainly
from runs import train
from worldly import train_each
from worlds import run_world

pytestmark = pytest.mark.distributed

STEPS = 8  # 4 in each phase


def toy_tree(shards, stage=1, **train_words):
    return {
        "recipe": "toy",
        "streams": {
            "labelled": {"shards": str(shards), "count": 4},
            "unlabelled": {"shards": str(shards), "count": 8},
        },
        "data": {"workers": 0},
        "optimizer": {"lr": 1e-2, "schedule": "cosine"},
        "networks": {"critic": {"optimizer": {"name": "sgd", "lr": 0.1, "clip": 0.5}}},
        "train": {"steps": STEPS, "log_every": 1, "validate_every": 100, "best": "accuracy", **train_words},
        "checkpoint": {"every": 1, "keep": 100},
        "zero": {"stage": stage},
    }


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
        for name in ("student", "critic", "teacher", "before"):
            np.testing.assert_allclose(trace.weights[name], plain.weights[name], rtol=0, atol=2e-6)


def test_the_average_lags_and_the_frozen_copy_is_from_the_start_of_the_phase(stages):
    trace = stages[0]
    assert not np.array_equal(trace.weights["teacher"], trace.weights["student"])
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


def test_accumulation_with_two_streams_changes_nothing(partly_known, plain):
    trace = run_world(1, train, toy_tree(partly_known, 2, micro_batch=3))[0]
    assert max(abs(a - b) for a, b in zip(trace.losses, plain.losses, strict=True)) <= 1e-6
