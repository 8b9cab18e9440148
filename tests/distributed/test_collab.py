"""Collaborative learning with three engines in five phases: ranks, micro batches, ZeRO stages, and resumes."""

import json
from itertools import pairwise

import numpy as np
import pytest

from plain import train_plainly
from runs import train
from spots import MASKED, collab_tree, make_spots, masked_list
from uml_dist.run.checkpoint import read_networks
from uml_dist.run.checkpoint_folder import checkpoints_in
from worldly import parameters_of_optimizers, train_each, train_in_pieces, train_validating
from worlds import run_world

pytestmark = pytest.mark.distributed

SWITCHES = (
    {},
    {"evidential": True, "evidence_weighting": True, "skip_discriminator_above": 0.6},
    {"grade_loss": "ordinal", "alternate": True, "pseudo": "hard", "discriminator_real": "masks"},
)
LEARN = [("generator",)] * 2 + [("grader",)] * 2 + [("generator", "discriminator")] * 2 + [("grader",)] * 2
LEARN += [("generator", "grader", "discriminator")] * 2
"""Networks that learn in each step of `collab_tree`."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spots")
    return make_spots(folder / "shards"), masked_list(folder)


def tree_of(data, stage=1, **objective):
    return {**collab_tree(*data, **objective), "zero": {"stage": stage}}


def smooth_tree(data, **objective):
    """With plain gradient descent: Adam makes whole steps of gradients that are hardly more than rounding."""
    return {**tree_of(data, **objective), "optimizer": {"name": "sgd", "lr": 0.01}}


@pytest.fixture(scope="module")
def plain(data):
    """Trainings in plain torch on one process: under each switch, and with Adam."""
    trees = [smooth_tree(data, **switches) for switches in SWITCHES]
    return run_world(1, train_each_plainly, [*trees, tree_of(data)])[0]


def train_each_plainly(trees):
    return [train_plainly(tree) for tree in trees]


@pytest.fixture(scope="module")
def stages(data):
    """Trainings of two ranks at ZeRO 0 to 3."""
    return run_world(2, train_each, [tree_of(data, stage) for stage in range(4)])[0]


def assert_same(trace, plain):
    np.testing.assert_allclose(trace.losses, plain.losses, rtol=5e-6)
    assert set(trace.weights) == {"generator", "grader", "discriminator", "features"}
    for name, weights in trace.weights.items():
        np.testing.assert_allclose(weights, plain.weights[name], rtol=0, atol=1e-5, err_msg=name)


def test_two_ranks_train_like_plain_torch_under_each_switch(data, plain):
    trees = [smooth_tree(data, **switches) for switches in SWITCHES]
    for trace, expected in zip(run_world(2, train_each, trees)[0], plain, strict=False):
        assert_same(trace, expected)


def test_weights_that_a_phase_does_not_use_take_part_in_no_step_of_adam(stages, plain):
    np.testing.assert_allclose(stages[1].losses, plain[-1].losses, rtol=5e-6)


def test_accumulation_changes_nothing(data, plain):
    tree = smooth_tree(data)
    tree["train"] = {**tree["train"], "micro_batch": 3}
    assert_same(run_world(1, train, tree)[0], plain[0])


def test_zero_stages_are_bitwise_equal(stages):
    for other in stages[1:]:
        assert other.losses == stages[0].losses
        for name, weights in stages[0].weights.items():
            assert np.array_equal(other.weights[name], weights), name


@pytest.mark.parametrize("stage", [1, 2])
def test_run_resumes_bit_for_bit_in_each_phase(stage, stages, data, tmp_path):
    pieces = run_world(2, train_in_pieces, tree_of(data, stage), str(tmp_path), (1, 3, 5, 7, 9, None))[0]
    assert [loss for piece in pieces for loss in piece.losses] == stages[stage].losses
    for name, weights in stages[stage].weights.items():
        assert np.array_equal(pieces[-1].weights[name], weights), name


def test_each_step_changes_the_networks_that_learn_and_no_others(data, tmp_path):
    run_world(1, train, tree_of(data), str(tmp_path))
    checkpoints = checkpoints_in(tmp_path / "checkpoints")
    states = [read_networks(checkpoint) for checkpoint in sorted(checkpoints, key=lambda one: one.name)]
    assert len(states) == len(LEARN)
    for (before, after), learn in zip(pairwise(states), LEARN[1:], strict=True):
        changed = {
            name
            for name, state in after.items()
            if any(not np.array_equal(value, before[name].weights[key]) for key, value in state.weights.items())
        }
        # The frozen copy takes over the grader's weights when the attention begins.
        assert changed - {"features"} == set(learn)


def test_each_optimizer_changes_the_parameters_of_its_own_network(data):
    owned = run_world(1, parameters_of_optimizers, tree_of(data, 0))[0]
    assert set(owned) == {"generator", "grader", "discriminator"}
    for name, (own, changed) in owned.items():
        assert changed == own, name
    assert len({number for own, _ in owned.values() for number in own}) == sum(len(own) for own, _ in owned.values())


def test_masks_of_images_with_grades_have_no_effect(stages, data, tmp_path):
    others = frozenset(f"train-{number}" for number in range(12)) - set(MASKED)
    garbage = make_spots(tmp_path / "garbage", others)
    assert run_world(2, train, tree_of((garbage, data[1])))[0].losses == stages[1].losses


def test_generator_without_the_two_terms_is_that_of_supervised_training(data):
    weights = {"semi_supervised": 0, "adversarial": 0}
    alone = collab_tree(*data, {"attention": "none"}, weights=weights)
    alone["phases"] = [{"name": name, "steps": 2} for name in ("lesions", "grades", "together")]
    beside = collab_tree(*data, weights=weights)
    beside["phases"] = [one for one in beside["phases"] if one["name"] != "adversary"]
    first, second = run_world(1, train_each, [alone, beside])[0]
    assert np.array_equal(first.weights["generator"], second.weights["generator"])
    assert not np.array_equal(first.weights["grader"][:100], second.weights["grader"][:100])


def test_all_phases_together_find_lesions_better_than_the_first(data, tmp_path):
    steps = {"lesions": 10, "grades": 5, "adversary": 5, "attention": 5, "together": 75}
    tree = {**tree_of(data), "optimizer": {"lr": 1e-2}}
    tree["phases"] = [{"name": name, "steps": number} for name, number in steps.items()]
    tree["train"] = {"log_every": 20, "validate_every": 25}
    tree["validations"] = {"grades": {"stream": "image", "best": "quadratic_kappa"}}
    run_world(1, train_validating, tree, str(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    aupr = {line["step"]: line["validation_aupr"] for line in lines if "validation_aupr" in line}
    assert aupr[100] > aupr[25] + 0.1
    assert {line["step"] for line in lines if "validation_grades.quadratic_kappa" in line} == {25, 50, 75, 100}
