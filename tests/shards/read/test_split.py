"""Tests of reading samples by number: same samples in any process, and errors for files that do not match."""

import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil

import numpy as np
import pytest

from broken_shards import restate_digests
from uml_shards import ShardError, open_split
from uml_shards.importers import Options, find_importer
from uml_shards.importers.phantom_pictures import draw
from uml_shards.write.writer import write_split


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A phantom split of 3 shards of 4 samples."""
    folder = tmp_path_factory.mktemp("shards") / "train"
    importer = find_importer("phantom")(None, Options(size=16, counts={"train": 12}, lossless=True))
    write_split(importer, "train", importer.splits()["train"], folder, samples_per_shard=4, quiet=True)
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "train")


def restate(folder, **changes):
    """Change the manifest's entry of the first shard."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shards"][0].update(changes)
    path.write_text(json.dumps(manifest))


def test_samples_are_numbered_over_consecutive_shards(made):
    split = open_split(made)
    assert len(split) == 12
    assert [split.locate(number) for number in (0, 3, 4, 11)] == [(0, 0), (0, 3), (1, 0), (2, 3)]
    assert split.keys() == tuple(split.components(number)[0] for number in range(12))
    assert sorted(split.keys()) == [f"train-{number:06d}" for number in range(12)]


@pytest.mark.parametrize("number", [-1, 12])
def test_number_out_of_range_is_an_index_error(made, number):
    with pytest.raises(IndexError):
        open_split(made).read(number)


def test_sample_is_decoded_as_the_importer_encoded_it(made):
    sample = open_split(made).read(5)
    drawn = draw(0, "train", int(sample.key.removeprefix("train-")), 16)
    np.testing.assert_array_equal(sample.image, drawn.image)
    np.testing.assert_array_equal(sample.mask, drawn.mask)
    assert sample.label == drawn.label
    assert sample.weight == 1.0


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_split_can_be_used_in_other_processes(made, method):
    split = open_split(made)
    expected = [split.read(number).key for number in range(12)]  # opens the files here first, as a parent may have done
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert [sample.key for sample in pool.map(split.read, range(12))] == expected


def test_pickled_split_contains_no_open_file(made):
    split = open_split(made)
    split.read(0)
    assert pickle.loads(pickle.dumps(split)).read(0).key == split.read(0).key


def test_split_can_have_more_shards_than_open_files(made, monkeypatch):
    monkeypatch.setattr("uml_shards.read.split.OPEN_FILES", 1)
    split = open_split(made)
    assert [split.read(number).key for number in (0, 5, 10, 1)] == [split.keys()[number] for number in (0, 5, 10, 1)]


def test_data_set_folder_error_names_its_splits(made):
    with pytest.raises(ShardError, match="is a data set: choose one of its splits: train"):
        open_split(made.parent)


def test_missing_folder_is_reported_in_one_line(tmp_path):
    with pytest.raises(ShardError, match="does not exist: make shards first"):
        open_split(tmp_path / "absent")


def test_name_that_is_too_long_is_reported_in_one_line(copy):
    with pytest.raises(ShardError, match="cannot be read: File name too long"):
        open_split(copy / ("x" * 300))
    restate(copy, name="x" * 300)
    with pytest.raises(ShardError, match="cannot be read: File name too long"):
        open_split(copy)


def test_disk_that_fails_while_a_sample_is_read_is_reported_in_one_line(made, monkeypatch):
    split = open_split(made)
    split.read(0)

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(ShardError, match=r"shard-000000\.tar cannot be read: Input/output error") as caught:
        split.read(0)
    assert caught.value.reason == "tar"


def test_missing_tar_is_detected_on_opening(copy):
    (copy / "shard-000001.tar").unlink()
    with pytest.raises(ShardError, match=r"shard-000001\.tar cannot be read: No such file"):
        open_split(copy)


def test_truncated_tar_is_detected_on_opening(copy):
    tar = copy / "shard-000002.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    with pytest.raises(ShardError, match=r"shard-000002\.tar: has \d+ bytes, the manifest states \d+"):
        open_split(copy)


def test_tar_truncated_after_opening_is_detected_on_reading(copy):
    split = open_split(copy)
    tar = copy / "shard-000002.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    with pytest.raises(ShardError, match=r"shard-000002\.tar: has \d+ bytes"):
        split.read(11)


def test_wrong_size_in_the_manifest_is_detected(copy):
    restate(copy, bytes=12345)
    with pytest.raises(ShardError, match="the manifest states 12345"):
        open_split(copy)


def test_index_of_another_shard_is_detected(copy):
    shutil.copy(copy / "shard-000001.index.npy", copy / "shard-000000.index.npy")
    with pytest.raises(ShardError, match=r"shard-000000\.index\.npy: its sha256 differs from the manifest's"):
        open_split(copy)


def test_wrong_number_of_samples_in_the_manifest_is_detected(copy):
    restate(copy, samples=5)
    with pytest.raises(ShardError, match="indexes 4 samples, the manifest states 5"):
        open_split(copy)


def test_tar_that_does_not_match_its_index_is_detected(copy):
    """Shift the index by one block and correct its digest in the manifest."""
    path = copy / "shard-000000.index.npy"
    index = np.load(path)
    index["base"] += 512
    np.save(path, index)
    restate(copy, index_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    split = open_split(copy)
    with pytest.raises(ShardError, match=r"shard-000000\.tar: found .* where the index states a component"):
        split.read(0)


def test_damaged_image_error_names_shard_key_and_reason(copy):
    split = open_split(copy)
    key, components = split.components(0)
    tar = copy / "shard-000000.tar"
    data = tar.read_bytes()
    at = data.index(components["png"]) + len(components["png"]) // 2
    tar.write_bytes(data[:at] + bytes(20) + data[at + 20 :])
    restate_digests(copy)
    with pytest.raises(ShardError, match=rf"shard-000000\.tar: sample {key}: png: cannot be") as caught:
        open_split(copy).read(0)
    assert "\n" not in str(caught.value)


def test_labels_are_known_without_reading_a_tar(partly_known):
    split = open_split(partly_known / "train")
    labels = split.labels()
    assert not split._files
    stated = [split.read(number).label for number in range(len(split))]
    assert labels.tolist() == [-1 if label is None else label for label in stated]
    assert {-1, 0, 1} <= set(labels.tolist())
