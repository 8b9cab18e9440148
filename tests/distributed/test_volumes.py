"""Training on patches of volumes: equal batches on any number of ranks, and no labels of unlabelled cases."""

import json
from itertools import product

import numpy as np
import pytest
import torch

from plain import train_plainly
from runs import train
from uml_dist import load_run
from volume_recipe import make_balls
from worldly import train_each, train_validating
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
        "windows": {"weights": "uniform", "stride": 3},
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


def validation_of(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (found,) = [record for record in records if "validation_dice" in record]
    return {name: value for name, value in found.items() if name.startswith("validation_")}


def test_two_ranks_at_zero_3_validate_volumes_by_windows_as_one_rank_does(tmp_path):
    ids = tmp_path / "labelled.txt"
    ids.write_text("\n".join(LABELLED))
    tree = tree_of(make_balls(tmp_path / "balls"), ids)
    for ranks, stage in ((1, 0), (2, 3)):
        run_world(ranks, train_validating, {**tree, "zero": {"stage": stage}}, str(tmp_path / str(ranks)))
    one, two = (validation_of(tmp_path / name) for name in ("1", "2"))
    assert two == pytest.approx(one, rel=1e-3)
    assert (tmp_path / "2" / "evaluation" / "val" / "sheet.png").is_file()
    assert two["validation_dice"] == pytest.approx(dice_by_hand(tmp_path / "2"), abs=1e-6)


def dice_by_hand(path):
    """Return the mean Dice over the volumes of the split, predicted by the run's best checkpoint in its windows."""
    run = load_run(path, device="cpu")
    split = run.open_split("val")
    mean, std = run.statistics.mean[0], run.statistics.std[0]
    dices, shapes = [], set()
    for number in range(len(split)):
        sample = split.read(number)
        image = torch.from_numpy((sample.image[..., 0].astype(np.float32) - mean) / std)
        predicted = mean_of_windows(run.networks["net"], image).argmax(0).numpy()
        both = (predicted * sample.mask).sum()
        dices.append(2 * both / (predicted.sum() + sample.mask.sum()))
        shapes.add(image.shape)
    assert len(shapes) > 1, "the volumes of this test are of one size"
    return float(np.mean(dices))


def mean_of_windows(network, image, size=(8, 8, 6), stride=3):
    """Return the mean probability (2, *S) of all windows, of volumes of which some axes are smaller than a window."""
    before = [max(window - side, 0) // 2 for side, window in zip(image.shape, size, strict=True)]
    after = [max(window - side, 0) - first for side, window, first in zip(image.shape, size, before, strict=True)]
    padded = torch.from_numpy(np.pad(image, list(zip(before, after, strict=True)), mode="reflect"))
    total, count = torch.zeros(2, *padded.shape), torch.zeros(padded.shape)
    sides = zip(padded.shape, size, strict=True)
    starts = [{min(at, side - window) for at in range(0, side, stride)} for side, window in sides]
    for corner in product(*starts):
        place = tuple(slice(start, start + window) for start, window in zip(corner, size, strict=True))
        total[:, *place] += network(padded[None, None, *place])[0].softmax(0)
        count[place] += 1
    inside = (slice(first, first + side) for first, side in zip(before, image.shape, strict=True))
    return (total / count)[:, *inside]


def test_content_of_unlabelled_masks_has_no_effect(traces):
    true, garbage = traces[1][0]
    assert true.losses == garbage.losses
    np.testing.assert_array_equal(true.weights["net"], garbage.weights["net"])


@pytest.mark.parametrize("name", ["light", "axial"])
def test_trainer_augments_volumes_as_numpy_does(name, tmp_path):
    ids = tmp_path / "labelled.txt"
    ids.write_text("\n".join(LABELLED))
    tree = tree_of(make_balls(tmp_path / "balls"), ids)
    tree["data"] |= {"size": [8, 8, 6], "augment": name}
    tree["train"]["steps"] = 3
    plainly = run_world(1, train_plainly, tree)[0]
    np.testing.assert_allclose(run_world(1, train, tree)[0].losses, plainly.losses, rtol=1e-6)
    tree["data"]["augment"] = "none"
    assert run_world(1, train, tree)[0].losses != pytest.approx(plainly.losses, rel=1e-4)
