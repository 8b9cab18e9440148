"""bf16, activation checkpointing, fine-tuning and the best checkpoint, with the real Trainer."""

import json

import numpy as np
import pytest
import torch

from runs import uml_tree
from uml_dist.config.loading import validate
from uml_dist.errors import UmlError
from uml_dist.run.checkpoint import read_networks, read_state, verify
from uml_dist.run.checkpoint_folder import find_checkpoint
from uml_dist.train.engine import deepspeed_config
from uml_dist.train.networks import Networks
from uml_dist.train.setup import prepare
from worldly import train_each, train_validating
from worlds import run_world

pytestmark = pytest.mark.distributed


def test_bf16_is_close_to_float32_and_activation_checkpointing_is_bitwise_equal(partly_known):
    plain, checkpointed, parted, half = (
        uml_tree(partly_known, train__steps=3),
        uml_tree(partly_known, train__steps=3, model__checkpointing=True),
        uml_tree(partly_known, train__steps=3, model__checkpointing=True, zero__stage=3),
        uml_tree(partly_known, train__steps=3, train__precision="bf16", zero__stage=2),
    )
    a, b, c, d = run_world(2, train_each, [plain, checkpointed, parted, half])[0]
    assert b.losses == a.losses
    assert np.array_equal(b.weights["uml"], a.weights["uml"])
    assert max(abs(x - y) for x, y in zip(c.losses, a.losses, strict=True)) <= 1e-6
    assert d.losses != a.losses
    assert max(abs(x - y) for x, y in zip(d.losses, a.losses, strict=True)) < 0.05


def test_best_checkpoint_has_the_best_validation_and_is_kept(partly_known, tmp_path):
    run = tmp_path / "run"
    tree = uml_tree(
        partly_known,
        train__steps=4,
        train__validate_every=1,
        train__best="loss",
        checkpoint__every=1,
        checkpoint__keep=1,
    )
    run_world(2, train_validating, tree, str(run))
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {record["step"]: record["validation_loss"] for record in records if "validation_loss" in record}
    assert sorted(losses) == [1, 2, 3, 4]
    best = min(losses, key=lambda step: losses[step])
    checkpoint = find_checkpoint(run, "best")
    assert checkpoint is not None
    verify(checkpoint)
    state = read_state(checkpoint)
    assert (state.step, state.best_step, state.best) == (best, best, losses[best])
    kept = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    assert kept == sorted({f"step-{best:06d}", "step-000004"})


def networks_of(tree) -> Networks:
    setup = prepare(validate(tree, "test"), 1)
    return Networks(setup.recipe, setup.config, torch.device("cpu"))


def test_fine_tuning_uses_given_weights_and_reinitialises_heads_of_other_classes(partly_known):
    given = {
        "uml": {name: value + 1 for name, value in networks_of(uml_tree(partly_known))["uml"].state_dict().items()}
    }
    networks = networks_of(uml_tree(partly_known, train__seed=5))
    assert networks.start_from(given, "there") == []
    assert all(torch.equal(value, given["uml"][name]) for name, value in networks["uml"].state_dict().items())

    given["uml"]["instructor.out.weight"] = torch.zeros(5, 64)
    networks = networks_of(uml_tree(partly_known, train__seed=5))
    before = networks["uml"].state_dict()["instructor.out.weight"].clone()
    assert networks.start_from(given, "there") == ["uml.instructor.out.weight"]
    assert torch.equal(networks["uml"].state_dict()["instructor.out.weight"], before)


def test_weights_of_another_architecture_are_refused_by_name(partly_known):
    networks = networks_of(uml_tree(partly_known))
    weights = dict(networks["uml"].state_dict())
    del weights["mutual.head.0.weight"]
    with pytest.raises(UmlError, match=r"there lacks uml\.mutual\.head\.0\.weight"):
        networks.start_from({"uml": weights}, "there")
    with pytest.raises(UmlError, match="there has no network uml"):
        networks.start_from({"other": weights}, "there")


def test_checkpoint_contains_the_moments_in_the_shapes_of_the_parameters(partly_known, tmp_path):
    run = tmp_path / "run"
    run_world(2, train_each, [uml_tree(partly_known, train__steps=1, zero__stage=3)], [str(run)])
    checkpoint = find_checkpoint(run)
    assert checkpoint is not None
    state = read_networks(checkpoint)["uml"]
    assert state.steps == 1
    assert set(state.moments) == {"exp_avg", "exp_avg_sq"}
    for tensors in state.moments.values():
        assert {name: t.shape for name, t in tensors.items()} == {name: t.shape for name, t in state.weights.items()}
    assert all(bool((tensor >= 0).all()) for tensor in state.moments["exp_avg_sq"].values())


def test_deepspeed_s_configuration_is_derived_from_ours_and_passes_the_rest_through(partly_known):
    tree = uml_tree(partly_known, zero__stage=2, optimizer__clip=0.5)
    tree["deepspeed"] = {"wall_clock_breakdown": True, "zero_optimization": {"reduce_bucket_size": 1000}}
    found = deepspeed_config(validate(tree, "test"), "uml", 4, 2, torch.device("cpu"))
    assert found["train_micro_batch_size_per_gpu"] == 4
    assert found["gradient_accumulation_steps"] == 2
    assert found["gradient_clipping"] == 0.5
    assert found["zero_optimization"] == {"stage": 2, "overlap_comm": False, "reduce_bucket_size": 1000}
    assert found["wall_clock_breakdown"] is True
    assert found["torch_autocast"]["enabled"] is False
