"""Hooks are called around each step, see complete gradients, and can end a run."""

import json

import pytest
import torch

import toy_recipe
from hooked import CallList, Fail, GradientNorms, train_with
from runs import train, uml_tree
from uml_dist.recipes import Progress
from uml_dist.telemetry import Spans, recording
from uml_dist.train.hooks import Hooks
from worldly import train_as_the_command
from worlds import run_world

assert toy_recipe

pytestmark = pytest.mark.distributed


def toy_tree(shards, **train_words):
    stream = {"shards": str(shards), "count": 4}
    return {
        "recipe": "toy",
        "streams": {"labelled": stream, "unlabelled": {**stream, "count": 8}},
        "data": {"workers": 0},
        "train": {"steps": 4, "log_every": 1, "best": "accuracy", **train_words},
        "checkpoint": {"every": 1},
        "metrics": {"enabled": False},
    }


def places(calls: CallList) -> list[tuple[str, int]]:
    return [(place, step) for place, step, _ in calls.calls]


def test_hooks_are_called_in_order_around_each_step(partly_known):
    """Two networks learn in the second phase; the critic skips its second step."""
    _, (calls,) = run_world(1, train_with, toy_tree(partly_known), [CallList()])[0]
    assert isinstance(calls, CallList)
    assert places(calls) == [
        *[("before_step", 0), ("before_update", 0), ("after_step", 1)],
        *[("before_step", 1), ("before_update", 1), ("after_step", 2)],
        *[("before_step", 2), ("before_update", 2), ("before_update", 2), ("after_step", 3)],
        *[("before_step", 3), ("before_update", 3), ("after_step", 4)],
    ]
    details = {(place, step): details for place, step, details in calls.calls}
    assert details["before_step", 0] == [{"labelled": 4}]
    assert details["before_step", 2] == [{"labelled": 4, "unlabelled": 8}]
    assert list(details["after_step", 3]) == ["student", "critic"]
    assert list(details["after_step", 4]) == ["student"]


def test_update_is_announced_once_however_many_micro_batches_a_step_has(partly_known):
    tree = toy_tree(partly_known, micro_batch=3, steps=2)
    _, (calls,) = run_world(1, train_with, tree, [CallList()])[0]
    assert isinstance(calls, CallList)
    assert calls.calls[0] == ("before_step", 0, [{"labelled": 2}, {"labelled": 2}])
    assert places(calls) == [
        *[("before_step", 0), ("before_update", 0), ("after_step", 1)],
        *[("before_step", 1), ("before_update", 1), ("before_update", 1), ("after_step", 2)],
    ]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_gradients_before_an_update_are_complete_and_not_clipped(stage, partly_known):
    """Their norm is the one that the step reports; the clipping threshold is far below."""
    words = {"train__steps": 2, "train__micro_batch": 2, "optimizer__clip": 1e-3}
    words |= {"objective__dice_scope": "sample", "zero__stage": stage}
    worlds = run_world(2, train_with, uml_tree(partly_known, **words), [GradientNorms(), CallList()])
    for _, (gradients, calls) in worlds:
        assert isinstance(gradients, GradientNorms)
        assert isinstance(calls, CallList)
        reported = [norms for place, _, norms in calls.calls if place == "after_step"]
        assert len(reported) == 2
        for computed, norms in zip(gradients.norms, reported, strict=True):
            assert computed == pytest.approx(norms, rel=1e-5)
            assert min(computed.values()) > 0.1


def test_hooks_that_only_look_change_nothing(partly_known):
    tree = toy_tree(partly_known)
    plain = run_world(1, train, tree)[0]
    watched, _ = run_world(1, train_with, tree, [CallList(), GradientNorms()])[0]
    assert watched.losses == plain.losses


def test_time_in_hooks_is_a_span_if_there_are_hooks():
    progress = Progress(1, 2, "train", 1, 2)
    for hooks, expected in (([], set()), ([CallList()], {"hooks"})):
        spans = Spans(torch.device("cpu"))
        with recording(spans):
            Hooks(hooks).after_step(progress, {})
        assert set(spans.take()) == expected


@pytest.mark.parametrize(
    ("place", "step", "saved"), [("before_step", 2, 2), ("before_update", 2, 2), ("after_step", 2, 1)]
)
def test_error_of_a_hook_ends_the_run_in_one_line_without_a_checkpoint_of_the_step(
    place, step, saved, partly_known, tmp_path
):
    run = str(tmp_path)
    ended = run_world(2, train_as_the_command, toy_tree(partly_known), run, None, [Fail(place, step)])
    told = 0
    for rank, (code, _, errors) in enumerate(ended):
        assert code == 2
        line = f"error: rank {rank}: {place} found a bad value at step {step}: lower the learning rate\n"
        assert errors.count("error: ") == errors.count(line)
        assert "Traceback" not in errors
        told += errors.count(line)
    assert told in (1, 2)  # a rank keeps silent once another one has reported the error
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["status"], f"{place} found" in status["reason"]) == ("failed", True)
    assert (tmp_path / "checkpoints" / "latest").read_text() == f"step-{saved:06d}\n"
