"""Averages at every ZeRO stage: the same bits, partitioned at stage 3, saved, resumed, and evaluated with."""

import gc
import json

import numpy as np
import pytest
import torch

from runs import train, uml_tree
from toy_recipe import toy_tree
from uml_dist import load_run
from uml_dist.config.loading import validate
from uml_dist.evaluate import evaluate
from uml_dist.nn.frozen import frozen
from uml_dist.nn.keyed_dropout import use_rng_key
from uml_dist.run.checkpoint import RunState, load_tensors, save_checkpoint
from uml_dist.train.networks import Networks
from uml_dist.train.setup import prepare
from worldly import train_as_the_command, train_each
from worlds import run_world

pytestmark = pytest.mark.distributed


def tree_of(shards, stage):
    """The toy recipe: a teacher that gives targets, and an average that nothing calls."""
    tree = toy_tree(shards, stage)
    tree["networks"]["critic"]["optimizer"]["clip"] = 0.0  # each stage adds up the norm in an order of its own
    return tree


@pytest.fixture(scope="module")
def stages(partly_known):
    return run_world(2, train_each, [tree_of(partly_known, stage) for stage in range(4)])[0]


def assert_bitwise_equal(one, other):
    assert set(one.weights) == set(other.weights)
    for name, weights in other.weights.items():
        assert np.array_equal(one.weights[name], weights), name


def test_averages_are_bitwise_equal_at_every_stage(stages):
    for trace in stages[1:]:
        assert trace.losses == stages[0].losses
        assert_bitwise_equal(trace, stages[0])


def test_run_moves_across_stages_bit_for_bit(stages, partly_known, tmp_path):
    losses = []
    for stage, stop_at in ((1, 3), (3, 6), (2, None)):
        trace = run_world(2, train, tree_of(partly_known, stage), str(tmp_path / "run"), False, stop_at)[0]
        losses += trace.losses
    assert losses == stages[0].losses
    assert_bitwise_equal(trace, stages[0])


def states_after_one_step(trees):
    return [train(tree, stop_at=1).weights for tree in trees]


def test_after_the_first_step_the_teacher_is_the_student(partly_known):
    for weights in run_world(2, states_after_one_step, [tree_of(partly_known, stage) for stage in (0, 3)])[0]:
        assert np.array_equal(weights["teacher"], weights["student"])
        assert not np.array_equal(weights["teacher"], weights["before"])


def live_bytes() -> int:
    """Return the bytes of all tensors of this process."""
    gc.collect()
    storages = {}
    for one in gc.get_objects():
        if isinstance(one, torch.Tensor):
            storages[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
    return sum(storages.values())


def held_by_averages(tree):
    """Return the bytes that averages take on this rank, and what the average computes for an image."""
    held, outputs, parameters = {}, [], 0
    for stage in (2, 3):
        for ema in (None, 0.9):
            before = live_bytes()
            setup = prepare(
                validate({**tree, "zero": {"stage": stage}, "train": {**tree["train"], "ema": ema}}, "test"), 2
            )
            networks = Networks(setup.recipe, setup.config, torch.device("cpu"))
            networks.start()
            parameters = networks.trained_parameters
            networks.build_engines(setup.phases[0][0], 4, 1)
            if ema:
                outputs.append(outputs_of(networks["uml.ema"], networks))
            held[stage, ema] = live_bytes() - before
            networks.release_engines()
            del networks
    averages = {stage: held[stage, 0.9] - held[stage, None] for stage in (2, 3)}
    return averages, 4 * parameters, outputs


def outputs_of(average, networks):
    """Call an average three times, once for a gradient of its input."""
    image = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32).requires_grad_()
    with use_rng_key(torch.arange(2)), networks.calling():
        first, second = average(image).class_logits, frozen(average)(image).class_logits
        (gradient,) = torch.autograd.grad(first.square().sum(), image)
    with torch.no_grad(), networks.calling():
        third = average(image).class_logits
    return [one.tolist() for one in (first, second, third, gradient)]


def test_at_stage_3_each_rank_holds_its_part_of_an_average_and_calls_the_whole(partly_known):
    tree = uml_tree(partly_known)
    for averages, whole, (two, three) in run_world(2, held_by_averages, tree):
        assert averages[2] == pytest.approx(whole, rel=0.02)
        assert averages[3] == pytest.approx(whole / 2, rel=0.02)
        assert two == three
        assert two[0] == two[1] == two[2]


def test_checkpoint_without_an_average_is_not_resumed(partly_known, tmp_path):
    tree = uml_tree(partly_known, train__ema=0.9)
    setup = prepare(validate(tree, "test"), 1)
    states = Networks(setup.recipe, setup.config, torch.device("cpu")).state()
    config = setup.config.model_dump(mode="json", exclude_none=True)
    state = RunState("uml", step=1, positions={"train": 8}, data=setup.digests, config=config)
    saved = save_checkpoint(tmp_path / "run" / "checkpoints", {"uml": states["uml"]}, state)
    ((code, _, errors),) = run_world(1, train_as_the_command, tree, str(tmp_path / "run"))
    assert (code, errors) == (2, f"error: checkpoint {saved} has no network uml.ema: choose another --run\n")


BATCH_NORM = {"model__head": "published", "train__precision": "bf16"}


@pytest.fixture(scope="module")
def validated(partly_known, tmp_path_factory):
    """Two runs in bf16 of a network with running statistics, at ZeRO 3, evaluated with either weights."""
    folder = tmp_path_factory.mktemp("averages")
    words = {"train__steps": 2, "train__ema": 0.9, "optimizer__lr": 1e-2, "zero__stage": 3, **BATCH_NORM}
    trees = {
        str(folder / weights): uml_tree(partly_known, **words, train__evaluate_with=weights)
        for weights in ("averaged", "trained")
    }
    run_world(2, validate_each, trees)
    return folder


def validate_each(trees):
    for run, tree in trees.items():
        train(tree, run, validate_too=True)


def weights_of(folder, name):
    return load_tensors(folder / "averaged" / "checkpoints" / "step-000002" / f"{name}.safetensors")


def test_the_average_is_stored_in_float32_with_the_running_statistics_of_its_network(validated):
    trained, averaged = (weights_of(validated, name) for name in ("uml", "uml.ema"))
    statistics = [name for name in trained if "running" in name]
    assert statistics
    assert all(torch.equal(averaged[name], trained[name]) for name in statistics)
    moved = torch.cat([(averaged[name] - trained[name]).flatten() for name in trained if name not in statistics])
    assert moved.abs().max() > 0
    values = torch.cat([value.flatten() for value in averaged.values() if value.is_floating_point()])
    assert (values.bfloat16().float() != values).float().mean() > 0.5


def record_of(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (record,) = [line for line in lines if "validation_dice" in line]
    return record


@pytest.mark.parametrize("weights", ["averaged", "trained"])
def test_validations_and_loaded_runs_use_the_weights_that_are_asked_for(weights, validated):
    other = {"averaged": "trained", "trained": "averaged"}[weights]
    record = record_of(validated / weights)
    assert record["weights"] == weights
    for run in (
        load_run(validated / weights, device="cpu"),
        load_run(validated / other, device="cpu", weights=weights),
    ):
        assert run.weights == weights
        result = evaluate(run.predictor, run.stream(run.open_split("val")), 4)
        assert result.metrics["pixel_nll"] == pytest.approx(record["validation_pixel_nll"], rel=1e-3)
    difference = record["validation_pixel_nll"] - record_of(validated / other)["validation_pixel_nll"]
    assert abs(difference) > 0.01 * record["validation_pixel_nll"]
