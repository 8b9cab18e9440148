"""Runs that start from a weight file: it is read once, when a new run starts, and not needed later."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from runs import flat
from uml_dist import load_run
from worldly import fail_to_start, starts_of, train_and_stop_each, train_each
from worlds import run_world

pytestmark = pytest.mark.distributed

COPIES = ("student", "teacher", "before")


def toy_tree(shards, stage=1, **model):
    return {
        "recipe": "toy",
        "streams": {
            "labelled": {"shards": str(shards), "count": 4},
            "unlabelled": {"shards": str(shards), "count": 8},
        },
        "data": {"workers": 0},
        "model": {key: str(value) for key, value in model.items()},
        "train": {"steps": 4, "log_every": 1, "best": "accuracy"},  # 2 in each phase
        "checkpoint": {"every": 1, "keep": 100},
        "zero": {"stage": stage},
        "metrics": {"enabled": False},
    }


@pytest.fixture(scope="module")
def tensors():
    """Weights of the student's convolution, its first two tensors."""
    generator = torch.Generator().manual_seed(3)
    return {"weight": torch.randn(6, 3, 3, 3, generator=generator), "bias": torch.randn(6, generator=generator)}


@pytest.fixture(scope="module")
def continued(partly_known, tensors, tmp_path_factory):
    """By stage: run folder, uninterrupted training, and training resumed after a step without the file."""
    folder = tmp_path_factory.mktemp("start")
    path = folder / "toy.safetensors"
    save_file(tensors, path)
    trees = [toy_tree(partly_known, stage, weights=path) for stage in (1, 3)]
    runs = [folder / f"stage-{tree['zero']['stage']}" for tree in trees]
    names = [str(run) for run in runs]
    straight = run_world(2, train_and_stop_each, trees, names, 1)[0]
    path.unlink()
    resumed = run_world(2, train_each, trees, names)[0]
    return dict(zip((1, 3), zip(runs, straight, resumed, strict=True), strict=True))


def test_new_run_starts_from_the_file_on_every_rank_at_every_stage(partly_known, tensors, tmp_path):
    path = tmp_path / "toy.safetensors"
    save_file(tensors, path)
    trees = [toy_tree(partly_known), *(toy_tree(partly_known, stage, weights=path) for stage in range(4))]
    for random, *started in run_world(2, starts_of, trees):
        given = flat(tensors.values())
        for trace in started:
            assert np.array_equal(trace.weights["critic"], random.weights["critic"])
            for name in COPIES:
                assert np.array_equal(trace.weights[name][: given.size], given)
                assert np.array_equal(trace.weights[name][given.size :], random.weights[name][given.size :])
                assert not np.array_equal(random.weights[name][: given.size], given)


@pytest.mark.parametrize("stage", [1, 3])
def test_run_resumes_bit_for_bit_without_the_file(continued, stage):
    _, straight, resumed = continued[stage]
    assert len(straight.losses) == 4
    assert resumed.losses == straight.losses[1:]
    for name, weights in straight.weights.items():
        assert np.array_equal(resumed.weights[name], weights), name


@pytest.mark.parametrize("stage", [1, 3])
def test_run_is_loaded_without_the_file(continued, stage):
    folder, straight, _ = continued[stage]
    run = load_run(folder, "latest", "cpu")
    assert run.state.step == 4
    for name, network in run.networks.items():
        assert np.array_equal(flat(network.parameters()), straight.weights[name]), name


def test_fine_tuning_overrides_the_file_and_does_not_need_it(continued, partly_known):
    folder, straight, _ = continued[3]
    tree = toy_tree(partly_known, weights=folder / "absent", init=folder)
    averaging = {**tree, "train": {**tree["train"], "ema": 0.9}}
    for trace in run_world(2, starts_of, [tree, averaging])[1]:
        for name, weights in straight.weights.items():
            assert np.array_equal(trace.weights[name], weights), name
    assert np.array_equal(trace.weights["critic.ema"], straight.weights["critic"])


def test_missing_file_at_the_start_of_ranks_is_one_line_and_exit_code_2(partly_known, tmp_path):
    run, absent = tmp_path / "run", tmp_path / "absent.safetensors"
    first, second = run_world(2, fail_to_start, toy_tree(partly_known, weights=absent), str(run))
    assert first[0] == 2
    assert first[1].startswith(f"error: {absent} cannot be read as safetensors: ")
    assert first[1].count("\n") == 1
    # The launcher kills all ranks when one fails: the others exit silently, so that the first can print the error.
    assert second == (0, "")
    assert not Path(run).exists()
