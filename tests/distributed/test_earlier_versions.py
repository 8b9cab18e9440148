"""Runs of earlier versions can be resumed: new parameters start at zero, new settings have their defaults."""

import shutil

import numpy as np
import pytest
import torch

from runs import train, uml_tree
from uml_dist.config.loading import validate
from uml_dist.run.checkpoint import read_networks, read_state, save_checkpoint
from uml_dist.run.checkpoint_folder import find_checkpoint
from uml_dist.run.load import load_run
from uml_dist.train.networks import Networks
from uml_dist.train.setup import find_resume, prepare
from worlds import run_world

pytestmark = pytest.mark.distributed

ADDED = ("place_query.bias", "place_value_bias")
SETTINGS_ADDED = {"data": ["normalise"]}


@pytest.fixture(scope="module")
def earlier(partly_known, tmp_path_factory):
    """The configuration and folder of a run of two steps whose checkpoint lacks newer parameters and settings."""
    tree = uml_tree(partly_known, train__steps=2, checkpoint__every=2)
    run = tmp_path_factory.mktemp("earlier") / "run"
    run_world(1, train, tree, str(run), True)
    checkpoint = find_checkpoint(run)
    assert checkpoint is not None
    networks, state = read_networks(checkpoint), read_state(checkpoint)
    for tensors in (networks["uml"].weights, *networks["uml"].moments.values()):
        for name in [name for name in tensors if name.endswith(ADDED)]:
            del tensors[name]
    for table, keys in SETTINGS_ADDED.items():
        for key in keys:
            del state.config[table][key]
    shutil.rmtree(run / "checkpoints")
    save_checkpoint(run / "checkpoints", networks, state)
    return tree, run


def test_run_of_an_earlier_version_is_resumed(earlier, tmp_path):
    tree, run = earlier
    shutil.copytree(run, tmp_path / "run")
    setup = prepare(validate({**tree, "train": {**tree["train"], "steps": 2}}, "test"), 1)
    found = find_resume(setup, tmp_path / "run", "auto")
    assert found is not None
    checkpoint, state = found
    assert state.step == 2

    networks = Networks(setup.recipe, setup.config, torch.device("cpu"))
    states, lines = networks.complete(read_networks(checkpoint), str(checkpoint))
    assert lines == [
        f"{checkpoint} was written by an earlier version, which lacks mixer.levels.0.place_value_bias and 7 more "
        "parameters: they start at zero"
    ]
    networks.load(states)
    added = [value for name, value in networks["uml"].named_parameters() if name.endswith(ADDED)]
    assert len(added) == 8
    assert all((value == 0).all() for value in added)


def test_new_parameters_train_from_moments_of_zero(earlier, tmp_path, partly_known):
    shutil.copytree(earlier[1], tmp_path / "run")
    longer = uml_tree(partly_known, train__steps=4, checkpoint__every=2)
    (trace,) = run_world(1, train, longer, str(tmp_path / "run"))
    assert len(trace.losses) == 2
    checkpoint = find_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    weights = read_networks(checkpoint)["uml"].weights
    assert all(weights[f"mixer.levels.{level}.{name}"].abs().max() > 0 for level in range(4) for name in ADDED)


def test_run_of_an_earlier_version_is_loaded_with_a_note(earlier):
    read = load_run(earlier[1], checkpoint="latest", device="cpu")
    assert len(read.notes) == 1
    assert "lacks mixer.levels.0.place_value_bias" in read.notes[0]
    assert np.isfinite(sum(float(value.sum()) for value in read.networks["uml"].parameters()))
