"""Tests of writing splits: reproducible bytes, and one-line errors that lose nothing."""

import io
import json
import math
import re
import resource
import tarfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from uml_shards import Manifest, ShardError, open_split
from uml_shards.importers import Importer, Options, Source, find_importer
from uml_shards.read.split import find_splits
from uml_shards.write.writer import write_split


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Item:
    number: int
    key: str | None = None
    mask_value: int = 1
    labelled: bool = True
    depth: type = np.uint8
    side: int = 4

    def image(self) -> np.ndarray:
        """Return a constant image, or, if it is large, noise that PNG cannot compress."""
        if self.side == 4:
            return np.full((4, 4), self.number, self.depth)
        return np.random.default_rng(0).integers(0, np.iinfo(self.depth).max, (self.side, self.side), self.depth)


class Made(Importer):
    """Grey images of one value each."""

    name = "made"
    summary = licence = source = where = tree = "test"
    default_size = 4
    needs_raw = False

    def splits(self) -> dict[str, Source]:
        return {}

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        components = {
            "png": png(item.image()),
            "json": json.dumps({"label": item.number % 2 if item.labelled else None}).encode(),
        }
        if item.mask_value >= 0:
            components["mask.png"] = png(np.full((item.side, item.side), item.mask_value, np.uint8))
        return item.key or f"k{item.number}", components


def write(folder, items, **options) -> Manifest:
    source = Source(items, classes=("even", "odd"), mask_classes=("background", "lesion"))
    return write_split(Made(), "train", source, folder, quiet=True, **options)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path):
    importer = find_importer("phantom")(None, Options(size=32, counts={"train": 11}))
    source = importer.splits()["train"]
    for workers in (1, 2, 3):
        write_split(importer, "train", source, tmp_path / str(workers), workers=workers, quiet=True)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "3")
    assert len(contents(tmp_path / "1")) == 8 * 2 + 1


def test_stock_webdataset_reads_every_sample_with_equal_bytes(tmp_path):
    manifest = write(tmp_path / "train", [Item(n) for n in range(9)], samples_per_shard=3)
    split = open_split(tmp_path / "train")
    ours = dict(split.components(number) for number in range(len(split)))
    urls = [str(tmp_path / "train" / shard.name) for shard in manifest.shards]
    stock = {
        record["__key__"]: {name: data for name, data in record.items() if not name.startswith("__")}
        for record in webdataset.WebDataset(urls, shardshuffle=False)
    }
    assert len(ours) == 9
    assert stock == ours


def test_members_contain_no_time_and_no_user(tmp_path):
    write(tmp_path / "train", [Item(0)])
    with tarfile.open(tmp_path / "train" / "shard-000000.tar") as tar:
        found = {(member.mtime, member.uname, member.gname, member.uid, member.mode) for member in tar}
    assert found == {(0, "uml", "uml", 0, 0o444)}


def test_manifest_states_counts_and_exact_statistics(tmp_path):
    items = [Item(n, labelled=n != 3, mask_value=-1 if n == 4 else 1) for n in range(5)]
    manifest = write(tmp_path / "train", items)
    assert (manifest.samples, manifest.labelled, manifest.masked) == (5, 4, 4)
    assert manifest.class_counts == (3, 1)
    assert manifest.components == ("json", "mask.png", "png")
    assert manifest.size == (4, 4)
    # Grey 0, 1, 2, 3, 4 of 255: mean 2, variance 2.
    assert manifest.statistics.mean == pytest.approx((2 / 255,), rel=1e-15)
    assert manifest.statistics.std == pytest.approx((math.sqrt(2) / 255,), rel=1e-15)


def test_sixteen_bit_values_are_scaled_by_their_own_range(tmp_path):
    manifest = write(tmp_path / "train", [Item(13107, depth=np.uint16)])
    assert manifest.statistics.mean == (0.2,)
    assert manifest.statistics.std == (0.0,)


@pytest.mark.parametrize(("samples", "shards"), [(1, 1), (3, 3), (8, 8), (9, 8), (40, 8)])
def test_split_has_eight_shards_if_it_has_enough_samples(tmp_path, samples, shards):
    manifest = write(tmp_path / "train", [Item(n) for n in range(samples)])
    sizes = [shard.samples for shard in manifest.shards]
    assert len(sizes) == shards
    assert sum(sizes) == samples
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Item(5, mask_value=7), "sample k5: mask.png: value 7 is out of range"),
        (Item(5, key="a.b"), "key 'a.b' must be"),
        (Item(5, key="k2"), "10 samples but only 9 different keys"),
    ],
)
def test_error_is_reported_in_one_line_and_leaves_no_split(tmp_path, workers, bad, reason):
    items = [bad if n == 5 else Item(n) for n in range(10)]
    with pytest.raises(ShardError, match=reason) as caught:
        write(tmp_path / "train", items, workers=workers)
    assert "\n" not in str(caught.value)
    assert find_splits(tmp_path) == []
    assert list(tmp_path.glob("**/*.tmp")) == []


def test_error_in_the_first_shard_leaves_no_files(tmp_path):
    with pytest.raises(ShardError, match="out of range"):
        write(tmp_path / "train", [Item(0, mask_value=9)])
    assert list(tmp_path.iterdir()) == []


def test_different_channels_are_an_error_even_with_skipping(tmp_path):
    class Mixed(Made):
        def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
            key, components = super().encode(item)
            return key, {**components, "png": png(np.zeros((4, 4, 3), np.uint8))} if item.number == 2 else components

    source = Source([Item(n, mask_value=-1) for n in range(3)], classes=("even", "odd"))
    for samples in (1, 3):
        with pytest.raises(ShardError, match=r"images with . and with . channels in one split"):
            write_split(
                Mixed(),
                "train",
                source,
                tmp_path / "train",
                samples_per_shard=samples,
                on_bad_sample="skip",
                quiet=True,
            )
        assert list(tmp_path.iterdir()) == []


def test_duplicate_key_in_a_shard_is_refused(tmp_path):
    with pytest.raises(ShardError, match="two samples have the key k0"):
        write(tmp_path / "train", [Item(0), Item(1, key="k0")], samples_per_shard=2, on_bad_sample="skip")


def test_finished_split_is_kept_without_overwrite(tmp_path):
    write(tmp_path / "train", [Item(n) for n in range(6)])
    before = contents(tmp_path / "train")
    with pytest.raises(ShardError, match="already contains a finished split: pass --overwrite"):
        write(tmp_path / "train", [Item(0)])
    with pytest.raises(ShardError, match="out of range"):
        write(tmp_path / "train", [Item(0, mask_value=9)], overwrite=True)
    assert contents(tmp_path / "train") == before
    write(tmp_path / "train", [Item(0)], overwrite=True)
    assert sorted(contents(tmp_path / "train")) == ["manifest.json", "shard-000000.index.npy", "shard-000000.tar"]


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "shard-000007.tar.tmp").write_bytes(b"half")
    write(tmp_path / "train", [Item(0)])
    assert len(contents(tmp_path / "train")) == 3


def test_unwritable_folder_is_reported_in_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ShardError, match="cannot be written: Not a directory"):
        write(tmp_path / "file" / "train", [Item(0)])


@pytest.mark.parametrize("workers", [1, 2])
def test_run_continues_after_a_full_disk(tmp_path, workers, capsys):
    items = [Item(n, side=80 if n == 3 else 4, depth=np.uint16) for n in range(6)]
    write(tmp_path / "whole", items, samples_per_shard=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Simulate a full disk with a limit on file sizes: all tars fit except the one with the large image.
    resource.setrlimit(resource.RLIMIT_FSIZE, (10240, hard))
    try:
        with pytest.raises(
            ShardError, match="train cannot be written: File too large: fix this and run the command again"
        ):
            write(tmp_path / "train", items, samples_per_shard=1, workers=workers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    capsys.readouterr()
    source = Source(items, classes=("even", "odd"), mask_classes=("background", "lesion"))
    write_split(Made(), "train", source, tmp_path / "train", samples_per_shard=1)
    assert re.search(r"train: continuing with [1-5] of 6 samples", capsys.readouterr().err)
    assert contents(tmp_path / "train") == contents(tmp_path / "whole")


def test_empty_split_is_refused(tmp_path):
    with pytest.raises(ShardError, match="has no samples"):
        write(tmp_path / "train", [])


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"classes": ("even", "even")}, "classes contains the same name twice"),
        (
            {"classes": ("even", "odd"), "tasks": {"odd": (2,)}},
            r"tasks\.odd names a label that is not one of 2 classes",
        ),
    ],
)
def test_source_that_makes_no_valid_manifest_is_refused_in_one_line(tmp_path, fields, problem):
    source = Source([Item(0), Item(1)], mask_classes=("background", "lesion"), **fields)
    with pytest.raises(ShardError, match=rf"^made: split train is not valid: {problem}"):
        write_split(Made(), "train", source, tmp_path, quiet=True)
