"""UG-MCL with its averaged teacher: any number of ranks, micro batches and ZeRO stage, and a resume bit for bit."""

import json

import numpy as np
import pytest

from ellipsoids import CASES, LABELLED, labelled_list, make_ellipsoids, ugmcl_tree
from plain import train_plainly
from runs import train
from uml_dist import load_run
from worldly import train_each, train_validating
from worlds import run_world

pytestmark = pytest.mark.distributed

# Distances become masks by a gentle slope, and every voxel passes the evidential gate: at a steep slope, or at a
# threshold, rounding has consequences.
SWITCHES = (
    {},
    {"uncertainty": "evidential", "gate_cross": True, "threshold": [1.0, 1.0]},
    {"copy_paste": True, "warmup": 0.25, "dice_scope": "sample"},
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ellipsoids")
    return make_ellipsoids(folder / "shards"), labelled_list(folder)


def tree_of(data, stage=1, **objective):
    return {**ugmcl_tree(*data, **objective), "zero": {"stage": stage}}


@pytest.fixture(scope="module")
def plain(data):
    """Trainings under each switch in plain torch on one process."""
    return run_world(1, train_each_plainly, [tree_of(data, **switches) for switches in SWITCHES])[0]


def train_each_plainly(trees):
    return [train_plainly(tree) for tree in trees]


@pytest.fixture(scope="module")
def stages(data):
    """Traces of both ranks at ZeRO 0 to 3."""
    return run_world(2, train_each, [tree_of(data, stage) for stage in range(4)])


def assert_same(trace, plain):
    assert max(abs(a - b) for a, b in zip(trace.losses, plain.losses, strict=True)) <= 2e-6
    for name in ("student", "teacher"):
        np.testing.assert_allclose(trace.weights[name], plain.weights[name], rtol=0, atol=5e-6)


def test_two_ranks_train_like_plain_torch_under_each_switch(data, plain):
    trees = [tree_of(data, **switches) for switches in SWITCHES]
    for trace, expected in zip(run_world(2, train_each, trees)[0], plain, strict=True):
        assert_same(trace, expected)


def test_accumulation_changes_nothing_if_dice_is_per_sample(data, plain):
    tree = tree_of(data, **SWITCHES[2])
    tree["train"] = {**tree["train"], "micro_batch": 2}
    assert_same(run_world(1, train, tree)[0], plain[2])


def test_zero_stages_are_bitwise_equal(stages):
    first, *others = stages[0]
    assert not np.array_equal(first.weights["teacher"], first.weights["student"])
    for other in others:
        assert other.losses == first.losses
        for name in ("student", "teacher"):
            assert np.array_equal(other.weights[name], first.weights[name])


def test_batches_are_labelled_samples_and_then_unlabelled_ones_and_never_both(stages):
    seen = [[key for rank in stages for key in rank[0].keys[number]] for number in range(len(stages[0][0].keys))]
    labelled, unlabelled = ({key for batch in seen[start::2] for key in batch} for start in (0, 1))
    assert labelled == set(LABELLED)
    assert unlabelled == {f"case-{number}" for number in range(CASES)} - set(LABELLED)


@pytest.mark.parametrize("stage", [1, 3])
def test_run_resumes_bit_for_bit_with_its_teacher(stage, stages, data, tmp_path):
    straight, run, losses = stages[0][stage], str(tmp_path / "run"), []
    tree = tree_of(data, stage)
    for stop_at in (2, None):
        trace = run_world(2, train, tree, run, False, stop_at)[0]
        losses += trace.losses
    assert losses == straight.losses
    for name, weights in straight.weights.items():
        assert np.array_equal(trace.weights[name], weights), name


def test_run_moves_across_zero_stages_with_its_teacher(stages, data, tmp_path):
    losses = []
    for stage, stop_at in ((1, 1), (3, 3), (2, None)):
        trace = run_world(2, train, tree_of(data, stage), str(tmp_path / "run"), False, stop_at)[0]
        losses += trace.losses
    np.testing.assert_allclose(losses, stages[0][0].losses, rtol=0, atol=2e-6)
    np.testing.assert_allclose(trace.weights["teacher"], stages[0][0].weights["teacher"], rtol=0, atol=2e-6)


def test_masks_of_unlabelled_cases_have_no_effect(stages, data, tmp_path):
    others = frozenset(f"case-{number}" for number in range(CASES)) - set(LABELLED)
    garbage = make_ellipsoids(tmp_path / "garbage", others)
    assert run_world(2, train, tree_of((garbage, data[1])))[0].losses == stages[0][1].losses


def test_two_labelled_cases_are_learnt_with_two_unlabelled_in_each_batch(data, tmp_path):
    tree = tree_of(data, passes=2, ramp="squared", slope=1500)
    tree["optimizer"] = {"name": "adam", "lr": 3e-3, "schedule": "constant"}
    tree["train"] = {**tree["train"], "steps": 200, "log_every": 50}
    tree["checkpoint"] = {"every": 200}
    run_world(1, train, tree, str(tmp_path / "run"))
    run = load_run(tmp_path / "run", "latest", "cpu")
    split = run.open_split("train")
    positions = [split.keys().index(key) for key in LABELLED]
    for batch, prediction in run.predictor.predictions(run.stream(split), positions, 1):
        predicted, mask = prediction.pixel_class == 1, batch.mask == 1
        dice = 2 * (predicted & mask).sum() / (predicted.sum() + mask.sum())
        assert dice > 0.9
        assert (prediction.maps["mask by distance"] >= 0).all()


def test_validations_name_overlap_and_distances_between_surfaces(data, tmp_path):
    tree = tree_of(data)
    tree["train"] = {**tree["train"], "validate_every": 4}
    run_world(2, train_validating, tree, str(tmp_path / "run"))
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (found,) = [record for record in records if "validation_dice" in record]
    assert {"validation_hd95", "validation_asd", "validation_iou", "validation_surface_failures"} <= found.keys()
