"""Counting operations changes no bit of a training, and counting one step of each kind counts all of them."""

import numpy as np
import pytest

from counted_flops import Counted, train_counted
from ellipsoids import labelled_list, make_ellipsoids, ugmcl_tree
from runs import uml_tree
from spots import collab_tree, make_spots, masked_list
from toy_recipe import toy_tree
from uml_dist.config.loading import apply_overrides
from worlds import run_world

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def toys(partly_known) -> list[Counted]:
    """Trainings of two ranks in which a network takes part in two of three steps."""
    return [rank[0] for rank in run_world(2, train_counted, [toy_tree(partly_known, 2, steps=14)], True)]


@pytest.fixture(scope="module")
def trainings(partly_known, tmp_path_factory) -> dict[str, Counted]:
    """Short trainings by recipe."""
    folder = tmp_path_factory.mktemp("flops")
    volumes, lesions = make_ellipsoids(folder / "ellipsoids"), make_spots(folder / "spots")
    trees = {
        "uml": uml_tree(partly_known, zero__stage=3, train__steps=1),
        "ugmcl": apply_overrides(ugmcl_tree(volumes, labelled_list(folder)), ["train.steps=2"]),
        "collab": apply_overrides(collab_tree(lesions, masked_list(folder)), ["model.checkpointing=true"]),
    }
    counted = run_world(1, train_counted, list(trees.values()))[0]
    return dict(zip(trees, counted, strict=True))


def assert_same(counted: Counted) -> None:
    plain, *others = counted.traces
    for trace in others:
        assert trace.terms == plain.terms
        for name, weights in plain.weights.items():
            np.testing.assert_array_equal(trace.weights[name], weights, err_msg=name)


def test_one_step_of_each_kind_gives_the_operations_of_all(toys):
    for rank in toys:
        assert len(set(rank.each)) == 3
        assert rank.exported == sum(rank.each)
        assert rank.counters < len(rank.each)


def test_counting_changes_no_bit_of_two_ranks(toys):
    for rank in toys:
        assert_same(rank)


@pytest.mark.parametrize("recipe", ["uml", "ugmcl", "collab"])
def test_counting_changes_no_bit_of_a_recipe(trainings, recipe):
    assert trainings[recipe].exported > 0
    assert_same(trainings[recipe])
