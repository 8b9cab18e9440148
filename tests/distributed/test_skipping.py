"""Bad samples in training: all ranks skip them alike, count them by reason, and stop if all samples are bad."""

import re
import shutil

import numpy as np
import pytest

from broken_shards import restate_digests
from runs import train, uml_tree
from uml_shards import open_split
from worldly import refusal_of
from worlds import run_world

pytestmark = pytest.mark.distributed


def damage(shards, folder, chosen):
    """Copy the shards and truncate the jpegs of the chosen samples of `train`, so that they cannot be decoded."""
    copy = shutil.copytree(shards, folder / "damaged")
    split = open_split(copy / "train")
    for number in chosen:
        shard, row = split.locate(number)
        place, column = split._indices[shard][row], split.manifest.components.index("jpg")
        start = int(place["base"]) + int(place["start"][column])
        with (copy / "train" / split.manifest.shards[shard].name).open("r+b") as file:
            file.seek(start + 100)
            file.write(bytes(int(place["size"][column]) - 100))
    restate_digests(copy / "train")
    return copy


def test_skipped_samples_have_no_effect_on_any_number_of_ranks(partly_known, tmp_path):
    split = open_split(partly_known / "train")
    chosen = range(0, len(split), 5)
    bad = {split.keys()[number] for number in chosen}
    tree = uml_tree(damage(partly_known, tmp_path, chosen), train__steps=4, data__on_bad_sample="skip")
    (one,) = run_world(1, train, tree)
    two = run_world(2, train, tree)
    given = [key for keys in one.keys for key in keys]
    skipped = [key for key in given if key.startswith("skipped-")]
    assert len(given) == 4 * 8
    assert len(skipped) > 2
    assert not bad & set(given)
    assert np.isfinite(one.losses).all()
    np.testing.assert_allclose(two[0].losses, one.losses, rtol=1e-6)
    assert two[0].losses == two[1].losses
    assert one.skipped == ["image"] * len(skipped)
    assert len(two[0].skipped) + len(two[1].skipped) == len(skipped)


def test_run_with_only_bad_samples_ends_with_one_line(partly_known, tmp_path):
    damaged = damage(partly_known, tmp_path, chosen=range(96))
    (line,) = run_world(1, refusal_of, uml_tree(damaged, train__steps=20, data__on_bad_sample="skip"))
    assert re.fullmatch(r"104 samples in a row cannot be read, last: .*shard-00000\d\.tar: sample \S+: jpg: .*", line)
