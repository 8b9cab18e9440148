"""Tests of finding the same image under different names, in one split or in several."""

from collections import Counter

import pytest

from uml_shards import ShardError
from uml_shards.importers.duplicates import identical_files, without_copies


@pytest.fixture
def images(tmp_path):
    """Images a to f: a = b = d, c = e, and f of the size of c."""
    contents = {"a": b"one", "b": b"one", "c": b"three", "d": b"one", "e": b"three", "f": b"fours"}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    return {name: tmp_path / name for name in contents}


def found(images, splits: str, duplicates: str = "error", **labels: int):
    notes: Counter[str] = Counter()
    split_of = dict(zip(images, splits.split(), strict=True))
    kept = without_copies(images, split_of, labels, duplicates, lambda text, count: notes.update({text: count}))
    return kept, dict(notes)


def test_identical_files_are_grouped(images):
    assert identical_files(images) == [["a", "b", "d"], ["c", "e"]]


def test_identical_folders_are_grouped_whatever_their_file_names(tmp_path):
    for folder, names in (("x", "12"), ("y", "43"), ("z", "12")):
        (tmp_path / folder).mkdir()
        for name, data in zip(names, ("aa", "bb") if folder != "z" else ("aa", "bc"), strict=True):
            (tmp_path / folder / name).write_text(data)
    assert identical_files({name: tmp_path / name for name in "xyz"}) == [["x", "y"]]


def test_copies_in_one_split_are_noted(images):
    kept, notes = found(images, "train train test train test val", c=0, e=1)
    assert len(kept) == 6
    assert notes == {"images identical to another one": 3, "identical images with different labels": 1}


def test_copies_in_two_splits_are_refused(images):
    with pytest.raises(
        ShardError, match=r"d \(val\) and .*a \(train\) are the same image: remove one.*duplicates=drop"
    ):
        found(images, "train train test val test val")


def test_dropping_keeps_the_copy_that_measures(images):
    kept, notes = found(images, "train val train test val train", "drop")
    assert kept == {"d": "test", "e": "val", "f": "train"}
    assert notes == {"images identical to another one": 3, "identical images in several splits (duplicates=drop)": 2}


def test_keeping_them_is_noted(images):
    kept, notes = found(images, "train val train test val train", "keep")
    assert len(kept) == 6
    assert notes["identical images in several splits (duplicates=keep)"] == 2
