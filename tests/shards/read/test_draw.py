"""Tests of drawing lists of labelled samples: by patient, nested, and never overwritten."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uml_shards import ShardError, open_split
from uml_shards.importers import Options
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.read.draw import draw_labelled, save_keys
from uml_shards.read.part import read_keys
from uml_shards.write.writer import write_split

PATIENTS = {number: f"P{number // 3}" if number < 12 else "" for number in range(20)}
"""Four patients with three images each; the other eight images have no patient."""


class OfPatients(PhantomImporter):
    """The phantom with a patient in the json of each image."""

    def encode(self, item):
        key, components = super().encode(item)
        meta = json.loads(components["json"]) | {"patient": PATIENTS[item[1]]}
        return key, components | {"json": json.dumps(meta).encode()}


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    importer = OfPatients(options=Options(size=16, counts={"train": 20}))
    folder = tmp_path_factory.mktemp("patients") / "train"
    write_split(importer, "train", importer.splits()["train"], folder, samples_per_shard=6, quiet=True)
    return open_split(folder)


@given(st.integers(0, 2**40), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=25, deadline=None)
def test_draws_are_nested_and_of_whole_patients(split, seed, one, two):
    smaller, larger = (draw_labelled(split, amount, seed, quiet=True) for amount in sorted((one, two)))
    assert set(smaller) <= set(larger)
    assert len(larger) - 2 <= max(one, two) <= len(larger)
    keys = split.keys()
    drawn = {int(keys[number].removeprefix("train-")) for number in larger}
    for patient in {PATIENTS[number] for number in drawn} - {""}:
        assert {number for number, of in PATIENTS.items() if of == patient} <= drawn


def test_without_patients_the_count_is_exact_and_depends_on_the_seed(partly_known):
    split = open_split(partly_known / "train")
    draws = [draw_labelled(split, 16, seed, quiet=True) for seed in (0, 0, 1)]
    assert [len(draw) for draw in draws] == [16, 16, 16]
    assert draws[0] == draws[1] == sorted(draws[0])
    assert draws[0] != draws[2]
    assert split.masked()[draws[0]].all()


def test_fraction_refers_to_the_candidates(partly_known):
    split = open_split(partly_known / "train")  # 64 of 96 have a mask
    assert len(draw_labelled(split, 0.25, quiet=True)) == 16
    assert len(draw_labelled(split, 0.001, quiet=True)) == 1


@pytest.mark.parametrize("amount", [0, -1, 1.5, float("nan"), float("inf"), 65])
def test_invalid_amounts_are_refused(partly_known, amount):
    with pytest.raises(ShardError, match=r"cannot be drawn|cannot draw 65 samples: only 64 have"):
        draw_labelled(open_split(partly_known / "train"), amount, quiet=True)


def test_split_without_candidates_is_refused(partly_known):
    with pytest.raises(ShardError, match="no sample has a mask or a label"):
        draw_labelled(open_split(partly_known / "train").without_truth(), 1, quiet=True)


def test_list_is_read_back_and_never_overwritten(tmp_path):
    path = tmp_path / "labelled.txt"
    save_keys(path, ["b", "a c"], "drawn")
    assert path.read_text() == "# drawn\nb\na c\n"
    assert list(read_keys(path)) == ["b", "a c"]
    with pytest.raises(ShardError, match=r"labelled\.txt already exists and a run may depend on it"):
        save_keys(path, ["x"], "drawn again")
    assert path.read_text() == "# drawn\nb\na c\n"


@pytest.mark.parametrize("key", ["#1", " a", "a\nb", ""])
def test_key_that_cannot_be_read_back_leaves_no_list(tmp_path, key):
    with pytest.raises(ShardError, match="is not allowed in a list"):
        save_keys(tmp_path / "labelled.txt", ["b", key], "drawn")
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_reported_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for parent, reason in (("absent", "No such file"), ("file", "Not a directory")):
        with pytest.raises(ShardError, match=rf"{parent}/labelled\.txt cannot be written: {reason}"):
            save_keys(tmp_path / parent / "labelled.txt", ["b"], "drawn")
