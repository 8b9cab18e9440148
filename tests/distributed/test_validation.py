"""Validations while the networks are in their engines: ranks may have different numbers of batches, also at ZeRO 3."""

import json

import pytest

from runs import make_partly_known, train, uml_tree
from worlds import run_world

pytestmark = pytest.mark.distributed


def validation_of(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (found,) = [record for record in records if "validation_dice" in record]
    return {name: value for name, value in found.items() if name.startswith("validation_")}


def test_two_ranks_at_zero_3_with_unequal_batches_validate_as_one_rank_does(tmp_path):
    # 13 samples on 2 ranks in batches of 3: three batches on rank 0, two on rank 1.
    shards = make_partly_known(tmp_path / "shards", validation=13)
    words = {"streams__train__count": 6, "train__steps": 2, "train__validate_every": 2, "model__dropout": 0.0}
    run_world(1, train, uml_tree(shards, **words, zero__stage=0), str(tmp_path / "one"), True)
    run_world(2, train, uml_tree(shards, **words, zero__stage=3), str(tmp_path / "two"), True)
    one, two = (validation_of(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert two == pytest.approx(one, rel=1e-3, abs=1e-3)
    assert (tmp_path / "two" / "evaluation" / "val" / "sheet.png").is_file()


def test_training_of_uml_ends_where_the_dice_stops_improving(partly_known, tmp_path):
    tree = uml_tree(partly_known, train__steps=20, train__validate_every=1, checkpoint__every=100)
    # Without steps of a size that changes a pixel, the first validation remains the best.
    tree["optimizer"] = {"name": "sgd", "lr": 1e-12, "floor": 0.0}
    tree["phases"] = [{"name": "train", "until": "dice", "patience": 2}]
    trace = run_world(1, train, tree, str(tmp_path / "run"), True)[0]
    assert len(trace.losses) == 3
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {
        "best", "latest", "step-000001", "step-000003",
    }  # fmt: skip
