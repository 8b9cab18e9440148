"""A run that was stopped goes on as if it had not been."""

import json

import numpy as np
import pytest

from runs import train, uml_tree
from worldly import generators_around
from worlds import run_world

pytestmark = pytest.mark.distributed

STEPS = 6


def words(**more):
    return {"train__steps": STEPS, "checkpoint__every": 2, **more}


def stop_and_go_on(tree, run, ranks=2, stop_at=3, then=None):
    """The losses after the resume, and the final weights; the kill loses the steps since the last checkpoint."""
    run_world(ranks, train, tree, str(run), False, stop_at)
    state = json.loads((run / "checkpoints" / "step-000002" / "state.json").read_text())
    assert state["step"] == 2
    return run_world(ranks, train, then or tree, str(run))[0]


@pytest.mark.parametrize(("stage", "workers"), [(0, 0), (1, 2), (2, 0), (3, 1)])
def test_the_same_world_goes_on_bit_for_bit(stage, workers, partly_known, tmp_path):
    tree = uml_tree(partly_known, **words(zero__stage=stage))
    straight = run_world(2, train, tree)[0]
    other_workers = uml_tree(partly_known, **words(zero__stage=stage, data__workers=workers))
    resumed = stop_and_go_on(tree, tmp_path / "run", then=other_workers)
    assert resumed.losses == straight.losses[2:]
    assert np.array_equal(resumed.weights["uml"], straight.weights["uml"])


def test_a_run_moves_from_four_ranks_to_two_to_one_and_across_stages(partly_known, tmp_path):
    straight = run_world(1, train, uml_tree(partly_known, **words(zero__stage=0)))[0]
    losses = []
    for ranks, stage, stop_at in ((4, 1, 2), (2, 3, 4), (1, 2, None)):
        tree = uml_tree(partly_known, **words(zero__stage=stage))
        losses += run_world(ranks, train, tree, str(tmp_path / "run"), False, stop_at)[0].losses
    assert len(losses) == STEPS
    assert max(abs(a - b) for a, b in zip(losses, straight.losses, strict=True)) <= 1e-6


def test_training_leaves_the_global_generators_alone(partly_known):
    """A loader without a generator of its own would draw from torch's, and a resumed run would differ."""
    before, after = run_world(1, generators_around, uml_tree(partly_known, train__steps=2, data__workers=1))[0]
    assert before == after

