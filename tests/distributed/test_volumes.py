"""Training on patches of volumes: equal batches on any number of ranks, and no labels of unlabelled cases."""

import numpy as np
import pytest

from volume_recipe import make_balls
from worldly import train_each
from worlds import run_world

pytestmark = pytest.mark.distributed

LABELLED = ("case-1", "case-4", "case-7")


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """Traces of training on one rank and on two, each also with garbage in the withheld masks."""
    folder = tmp_path_factory.mktemp("balls")
    ids = folder / "labelled.txt"
    ids.write_text("\n".join(LABELLED))
    others = frozenset(f"case-{number}" for number in range(10)) - set(LABELLED)
    trees = [tree_of(make_balls(folder / "true"), ids), tree_of(make_balls(folder / "garbage", others), ids)]
    return {ranks: run_world(ranks, train_each, trees) for ranks in (1, 2)}


def tree_of(shards, ids):
    stream = {"shards": str(shards), "count": 2, "labelled_ids": str(ids)}
    return {
        "recipe": "volume",
        "streams": {"labelled": {**stream, "part": "labelled"}, "unlabelled": {**stream, "part": "unlabelled"}},
        "data": {"workers": 0, "size": [8, 8, 6]},
        "train": {"steps": 8, "log_every": 1, "validate_every": 1000, "best": "dice"},
        "checkpoint": {"every": 1000},
        "metrics": {"enabled": False},
    }


def test_two_ranks_receive_the_same_patches_as_one(traces):
    one, two = traces[1][0][0], [rank[0] for rank in traces[2]]
    np.testing.assert_allclose(two[0].losses, one.losses, rtol=1e-6)
    assert one.losses[-1] < one.losses[0]
    both = [key for keys in (*two[0].keys, *two[1].keys) for key in keys]
    assert sorted(both) == sorted(key for keys in one.keys for key in keys)


def test_each_stream_contains_its_part(traces):
    keys = traces[1][0][0].keys
    assert {key for batch in keys[::2] for key in batch} == set(LABELLED)
    assert {key for batch in keys[1::2] for key in batch} == {f"case-{n}" for n in range(10)} - set(LABELLED)


def test_content_of_unlabelled_masks_has_no_effect(traces):
    true, garbage = traces[1][0]
    assert true.losses == garbage.losses
    np.testing.assert_array_equal(true.weights["net"], garbage.weights["net"])
