"""A stopped run resumes as if it had not been stopped."""

import json
from pathlib import Path

import numpy as np
import pytest

from runs import train, uml_tree
from worldly import generators_around, train_and_stop_each, train_each
from worlds import run_world

pytestmark = pytest.mark.distributed

STEPS = 6


def words(**more):
    return {"train__steps": STEPS, "checkpoint__every": 2, **more}


def test_same_world_resumes_bit_for_bit_at_every_stage(partly_known, tmp_path):
    """The run is stopped in step 4 of 6, in mid-epoch; it loses the steps after the checkpoint of step 2."""
    stages = range(4)
    trees = [uml_tree(partly_known, **words(zero__stage=stage)) for stage in stages]
    # The number of loader workers after the stop has no effect.
    resumed_trees = [uml_tree(partly_known, **words(zero__stage=stage, data__workers=stage % 3)) for stage in stages]
    runs = [str(tmp_path / f"stage-{stage}") for stage in stages]
    straight, _ = run_world(2, train_and_stop_each, trees, runs, 3)
    for run in runs:
        state = json.loads((Path(run) / "checkpoints" / "step-000002" / "state.json").read_text())
        assert (state["step"], state["positions"]) == (2, {"train": 16})
    resumed, _ = run_world(2, train_each, resumed_trees, runs)
    for before, after in zip(straight, resumed, strict=True):
        assert after.losses == before.losses[2:]
        assert np.array_equal(after.weights["uml"], before.weights["uml"])


def test_all_ranks_stop_after_the_same_step_if_one_is_asked_and_resume_bit_for_bit(partly_known, tmp_path):
    """Rank 1 is asked in the fourth step: that step is the last, although its number is not that of a checkpoint."""
    tree, run = uml_tree(partly_known, **words(checkpoint__every=100)), tmp_path / "run"
    straight = run_world(2, train, tree)
    stopped = run_world(2, train, tree, str(run), False, None, (), (1, 3))
    assert [one.stopped for one in stopped] == ["asked in step 3"] * 2
    assert stopped[0].losses == straight[0].losses[:4]
    assert (run / "checkpoints" / "latest").read_text() == "step-000004\n"
    resumed = run_world(2, train, tree, str(run))
    assert [one.stopped for one in resumed] == [None, None]
    assert resumed[0].losses == straight[0].losses[4:]
    for before, after in zip(straight, resumed, strict=True):
        assert np.array_equal(after.weights["uml"], before.weights["uml"])


def test_a_request_in_the_last_step_changes_nothing(partly_known, tmp_path):
    tree = uml_tree(partly_known, **words(train__steps=2))
    (one,) = run_world(1, train, tree, str(tmp_path / "run"), False, None, (), (0, 1))
    assert (one.stopped, len(one.losses)) == (None, 2)


def test_paper_s_profile_with_its_switches_on_resumes_bit_for_bit(partly_known, tmp_path):
    switches = {"model__profile": "paper", "model__un_top_in_seg": True, "model__mask_source": "belief"}
    trees = [uml_tree(partly_known, **words(**switches, train__steps=3, zero__stage=2))]
    runs = [str(tmp_path / "run")]
    (before,), _ = run_world(2, train_and_stop_each, trees, runs, 2)
    (after,), _ = run_world(2, train_each, trees, runs)
    assert after.losses == before.losses[2:]
    assert np.array_equal(after.weights["uml"], before.weights["uml"])


@pytest.mark.fault
@pytest.mark.parametrize(
    ("world", "count", "tolerance"),
    [((4, 2, 1), 8, {"rtol": 0, "atol": 1e-6}), ((6, 3, 2), 12, {"rtol": 1e-5})],
    ids=["4-2-1", "6-3-2"],
)
def test_run_moves_to_fewer_ranks_and_other_stages_with_the_same_batches_and_losses(
    world, count, tolerance, partly_known, tmp_path
):
    """Each start loses the steps after its last checkpoint."""
    length = words(streams__train__count=count)
    straight = run_world(1, train, uml_tree(partly_known, **length, zero__stage=0))[0]
    batches = keys_of_steps([straight])
    assert len({key for keys in batches for key in keys}) == STEPS * count  # within an epoch
    losses = []
    for ranks, stage, first, stop_at in zip(world, (1, 3, 2), (0, 2, 4), (3, 5, None), strict=True):
        tree = uml_tree(partly_known, **length, zero__stage=stage)
        traces = run_world(ranks, train, tree, str(tmp_path / "run"), False, stop_at)
        kept = slice(0, 2 if stop_at else None)
        losses += traces[0].losses[kept]
        assert keys_of_steps(traces) == batches[first:stop_at]
    np.testing.assert_allclose(losses, straight.losses, **tolerance)


def keys_of_steps(traces):
    """Keys of each step, of all ranks together in order."""
    return [sorted(key for trace in traces for key in trace.keys[step]) for step in range(len(traces[0].keys))]


def test_training_does_not_use_the_global_generators(partly_known):
    """A loader without a generator of its own would draw from torch's, and a resumed run would differ."""
    before, after = run_world(1, generators_around, uml_tree(partly_known, train__steps=2, data__workers=1))[0]
    assert before == after
