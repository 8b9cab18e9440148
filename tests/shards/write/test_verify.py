"""Tests of the complete check, which detects problems that opening a split does not."""

import hashlib
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from uml_shards.importers import Options, Source, find_importer
from uml_shards.read.split import find_splits, open_split
from uml_shards.write.near_copies import near_copies
from uml_shards.write.verify import verify
from uml_shards.write.writer import write_split


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A phantom data set of two splits."""
    folder = tmp_path_factory.mktemp("shards")
    importer = find_importer("phantom")(None, Options(size=16, counts={"train": 6, "val": 4, "test": 0}))
    for name, source in importer.splits().items():
        write_split(importer, name, source, folder / name, samples_per_shard=3, quiet=True)
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "data")


def change(folder, **statements):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **statements}))


def only(problems: list[str]) -> str:
    assert len(problems) == 1
    assert "\n" not in problems[0]
    return problems[0]


def test_valid_shards_have_no_problems(made):
    assert verify(made, quiet=True) == []
    assert verify(made / "val", quiet=True) == []


def test_flipped_bit_in_the_padding_is_detected(copy):
    tar = copy / "train" / "shard-000001.tar"
    data = bytearray(tar.read_bytes())
    data[-1] ^= 1
    tar.write_bytes(data)
    assert "shard-000001.tar: its sha256 differs from the manifest's" in only(verify(copy, quiet=True))


def test_truncated_tar_is_detected(copy):
    tar = copy / "val" / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    assert "the manifest states" in only(verify(copy, quiet=True))


def test_every_bad_shard_is_reported(copy):
    for name in ("shard-000000.tar", "shard-000001.tar"):
        (copy / "train" / name).unlink()
    assert len(verify(copy / "train", quiet=True)) == 2


@pytest.mark.parametrize(
    ("statement", "value"),
    [("masked", 5), ("class_counts", [6, 0])],
)
def test_wrong_count_in_the_manifest_is_detected(copy, statement, value):
    stated = json.loads((copy / "train" / "manifest.json").read_text())[statement]
    assert stated != value
    change(copy / "train", **{statement: value})
    assert f"the manifest states {statement}" in only(verify(copy / "train", quiet=True))


def test_wrong_statistics_in_the_manifest_are_detected(copy):
    statistics = json.loads((copy / "train" / "manifest.json").read_text())["statistics"]
    change(copy / "train", statistics={**statistics, "mean": [0.5, 0.5, 0.5]})
    assert "the manifest states image mean" in only(verify(copy / "train", quiet=True))


def test_samples_in_two_splits_are_detected(copy):
    shutil.copytree(copy / "val", copy / "test")
    assert "test and" in only(verify(copy / "val", quiet=True))
    assert "share 4 keys" in only(verify(copy, quiet=True))


def test_mask_value_out_of_range_is_detected(copy):
    """The split is written with three mask classes; the manifest is then changed to two."""
    importer = find_importer("phantom")(None, Options(size=16))

    class Wrong(type(importer)):
        def encode(self, item):
            key, components = super().encode(item)
            buffer = io.BytesIO()
            Image.fromarray(np.full((16, 16), 2, np.uint8)).save(buffer, "PNG")
            return key, {**components, "mask.png": buffer.getvalue()}

    source = Source([("test", 0)], classes=("a", "b"), mask_classes=("background", "one", "two"))
    write_split(Wrong(None, Options(size=16)), "test", source, copy / "test", quiet=True)
    assert verify(copy, quiet=True) == []
    change(copy / "test", mask_classes=["background", "one"])
    assert "sample test-000000: mask.png: value 2 is out of range" in only(verify(copy / "test", quiet=True))


def test_folder_without_shards_is_reported_in_one_line(tmp_path):
    assert "make shards first" in only(verify(tmp_path, quiet=True))


def test_wrong_label_in_the_index_is_detected(copy):
    folder = copy / "train"
    path = folder / "shard-000000.index.npy"
    index = np.load(path)
    index["label"][1] = stated = 1 - index["label"][1]
    np.save(path, index)
    shards = json.loads((folder / "manifest.json").read_text())["shards"]
    shards[0]["index_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    change(folder, shards=shards)
    assert f"its index states {stated}: make the shards again" in only(verify(folder, quiet=True))


def folder_of(tmp_path, names_and_splits, **settings):
    """Make shards of different random images, of which those of equal names are equal."""
    raw = tmp_path / "raw"
    (raw / "images").mkdir(parents=True)
    rows = ["image,split"]
    for number, (name, split) in enumerate(names_and_splits):
        noise = np.random.default_rng(ord(name)).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((128, 128), Image.Resampling.BICUBIC)
        image.save(raw / "images" / f"{number}.png")
        rows.append(f"{number},{split}")
    (raw / "labels.csv").write_text("\n".join(rows))
    importer = find_importer("folder")(raw, Options(size=64, settings={"keys": "names", **settings}))
    for split, source in importer.splits().items():
        write_split(importer, split, source, tmp_path / "out" / split, quiet=True)
    return tmp_path / "out"


def test_identical_images_of_two_splits_are_detected(tmp_path):
    out = folder_of(tmp_path, [("a", "train"), ("b", "train"), ("b", "test"), ("c", "test")], duplicates="keep")
    assert verify(out, quiet=True) == []  # the manifest states that they were kept on purpose
    for split in ("train", "test"):
        options = json.loads((out / split / "manifest.json").read_text())["options"]
        change(out / split, options={**options, "duplicates": "error"})
    problem = only(verify(out, quiet=True))
    assert "share 1 identical images, the first is 2 and 1: remove one of each pair" in problem


def test_images_that_look_alike_are_listed(tmp_path):
    pytest.importorskip("imagehash")
    out = folder_of(tmp_path, [("a", "train"), ("b", "train"), ("c", "test")])
    assert near_copies(find_splits(out), quiet=True) == []
    sample = open_split(out / "train").read(0)
    copy = tmp_path / "raw" / "images" / "3.jpg"
    Image.fromarray(sample.image).resize((90, 90)).save(copy, quality=70)
    with (tmp_path / "raw" / "labels.csv").open("a") as table:
        table.write("\n3,test")
    importer = find_importer("folder")(tmp_path / "raw", Options(size=64, settings={"keys": "names"}))
    write_split(importer, "test", importer.splits()["test"], out / "test", quiet=True, overwrite=True)
    (pair,) = near_copies(find_splits(out), quiet=True)
    assert {pair.first[1], pair.second[1]} == {sample.key, "3"}
    assert f"{out / 'train'} {sample.key}" in str(pair)
    assert "look alike: their hashes differ in" in str(pair)
