"""Tests of skipping samples that cannot be used: they are counted, listed and limited in number."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uml_shards import Manifest, ShardError, open_split
from uml_shards.importers import Importer, Options, Source
from uml_shards.sources.encode import encode_file, encode_grey, encode_json
from uml_shards.write.skipped import Skipped, load_skipped, skipped_csv, summarize
from uml_shards.write.unfinished import FOLDER
from uml_shards.write.verify import verify
from uml_shards.write.writer import write_split


class Files(Importer):
    """RAW/<key>.png, with a mask of the item's value."""

    name = "files"
    summary = licence = source = where = tree = "test"
    default_size = 0

    def splits(self) -> dict[str, Source]:
        return {}

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        assert self.raw is not None
        key, value = item
        extension, image, size = encode_file(self.raw / f"{key}.png", self.size, False)
        if value == "opened":
            (self.raw / "no such folder" / key).read_bytes()
        components = {extension: image, "mask.png": encode_grey(np.full(size, value, np.uint8))}
        return key, components if value == 255 else {**components, "json": encode_json(None)}


BAD = {"k03": 7, "k08": 9, "k11": "broken", "k14": "opened", "k16": 255}
"""Key -> problem: an invalid mask value, a damaged file, a missing file, no json."""


@pytest.fixture
def raw(tmp_path) -> Path:
    folder = tmp_path / "raw (1.5)"
    folder.mkdir()
    for number in range(20):
        path = folder / f"k{number:02d}.png"
        path.write_bytes(encode_grey(np.full((4, 4), number, np.uint8)))
        if BAD.get(path.stem) == "broken":
            path.write_bytes(b"not an image")
    return folder


def write(raw: Path, folder: Path, keys: list[str] | None = None, **options: Any) -> Manifest:
    keys = keys or [f"k{number:02d}" for number in range(20)]
    items = [(key, 1 if BAD.get(key) == "broken" else BAD.get(key, 1)) for key in keys]
    source = Source(items, mask_classes=("background", "lesion"))
    options = {"samples_per_shard": 4, "on_bad_sample": "skip", **options}
    return write_split(Files(raw, Options()), "train", source, folder, quiet=True, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_bad_samples_are_skipped_and_listed_with_their_reasons(raw, tmp_path):
    manifest = write(raw, tmp_path / "train")
    assert manifest.samples == 15
    split = open_split(tmp_path / "train")
    assert sorted(split.keys()) == [f"k{n:02d}" for n in range(20) if f"k{n:02d}" not in BAD]
    assert verify(tmp_path / "train", quiet=True) == []
    with (tmp_path / "train" / "skipped.csv").open(newline="") as table:
        rows = {row["item"]: row["reason"] for row in csv.DictReader(table)}
    assert rows["k03"] == "mask.png: value 7 is out of range: 2 mask classes, and 255 = ignore"
    assert rows["k16"] == "component json is missing"
    assert rows[repr(("k11", 1))].startswith(f"{raw / 'k11.png'} cannot be read")
    assert rows[repr(("k14", "opened"))].endswith("cannot be read: No such file or directory")
    assert len(rows) == 5


def test_skipped_samples_do_not_depend_on_the_number_of_processes(raw, tmp_path):
    for workers in (1, 2, 3):
        write(raw, tmp_path / str(workers), workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "3")


@pytest.mark.parametrize("workers", [1, 2])
def test_too_many_skipped_samples_are_reported_in_one_line(raw, tmp_path, workers):
    with pytest.raises(
        ShardError, match=r"files: more than 4 samples cannot be used, one of them .*--max-skipped"
    ) as caught:
        write(raw, tmp_path / "train", workers=workers, max_skipped=4)
    assert "\n" not in str(caught.value)
    assert write(raw, tmp_path / "train", max_skipped=5).samples == 15


def test_first_bad_sample_is_an_error_without_skipping(raw, tmp_path):
    keys = [f"k{number:02d}" for number in range(10)]
    with pytest.raises(ShardError, match=r"\(pass --on-bad-sample skip to skip such samples\)"):
        write(raw, tmp_path / "train", keys, samples_per_shard=2, on_bad_sample="error")
    kept = {path.stat().st_ino for path in (tmp_path / "train" / FOLDER).glob("*.tar")}
    assert kept
    write(raw, tmp_path / "train", keys, samples_per_shard=2)
    assert kept <= {path.stat().st_ino for path in (tmp_path / "train").glob("*.tar")}
    write(raw, tmp_path / "whole", keys, samples_per_shard=2)
    assert contents(tmp_path / "train") == contents(tmp_path / "whole")


def test_shards_with_skipped_samples_are_rewritten_without_skipping(raw, tmp_path):
    with pytest.raises(ShardError, match="more than 1 samples"):
        write(raw, tmp_path / "train", max_skipped=1)
    with pytest.raises(ShardError, match="to skip such samples"):
        write(raw, tmp_path / "train", on_bad_sample="error")


def test_repaired_file_is_read_when_the_run_continues(raw, tmp_path):
    keys = ["k01", "k02", "k11"]
    with pytest.raises(ShardError, match=r"k11\.png cannot be read"):
        write(raw, tmp_path / "train", keys, samples_per_shard=1, on_bad_sample="error")
    (raw / "k11.png").write_bytes(encode_grey(np.full((4, 4), 3, np.uint8)))
    assert write(raw, tmp_path / "train", keys, samples_per_shard=1, on_bad_sample="error").samples == 3
    assert not (tmp_path / "train" / "skipped.csv").exists()


def test_shard_of_only_bad_samples_leaves_no_gap_in_the_names(raw, tmp_path):
    manifest = write(raw, tmp_path / "train", ["k01", "k03", "k08", "k02", "k11"], samples_per_shard=1)
    assert [shard.name for shard in manifest.shards] == ["shard-000000.tar", "shard-000001.tar"]
    assert verify(tmp_path / "train", quiet=True) == []
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == [
        "manifest.json",
        "shard-000000.index.npy",
        "shard-000000.tar",
        "shard-000001.index.npy",
        "shard-000001.tar",
        "skipped.csv",
    ]


def test_split_of_only_bad_samples_is_reported_in_one_line(raw, tmp_path):
    with pytest.raises(ShardError, match=r"no sample of train can be used, first k03: mask\.png: value 7"):
        write(raw, tmp_path / "train", ["k03"])
    assert not (tmp_path / "train").exists()


def test_overwriting_without_bad_samples_removes_the_list(raw, tmp_path):
    write(raw, tmp_path / "train")
    assert len(load_skipped(tmp_path / "train")) == 5
    write(raw, tmp_path / "train", ["k01"], overwrite=True)
    assert load_skipped(tmp_path / "train") == []


def test_summary_counts_by_reason_regardless_of_file_and_number(raw, tmp_path):
    write(raw, tmp_path / "train")
    lines = summarize(load_skipped(tmp_path / "train")).splitlines()
    assert lines[0] == "       2  mask.png: value N is out of range: N mask classes, and N = ignore"
    assert [line for line in lines if line.startswith("       1  FILE cannot be read: ")]
    assert "       1  FILE cannot be read: No such file or directory" in lines
    assert len(lines) == 4


def test_summary_hides_files_inside_a_reason():
    skipped = [
        Skipped(f"k{n}", f"set: /data 1/v1.2/image {n}.png cannot be opened: it is not an image") for n in range(3)
    ]
    assert summarize(skipped) == "       3  set: FILE cannot be opened: it is not an image"


def test_interrupted_skipping_keeps_the_list_and_its_count(raw, tmp_path):
    with pytest.raises(ShardError, match="more than 4 samples"):
        write(raw, tmp_path / "train", max_skipped=4)
    with pytest.raises(ShardError, match=r"files: [1-4] samples are already skipped: pass a larger --max-skipped"):
        write(raw, tmp_path / "train", max_skipped=0)
    records = [json.loads(path.read_text()) for path in (tmp_path / "train" / FOLDER).glob("shard-*.json")]
    assert sum(len(record["skipped"]) for record in records) >= 1
    write(raw, tmp_path / "train")
    assert len(load_skipped(tmp_path / "train")) == 5


def test_items_and_reasons_are_read_as_they_were_written(tmp_path):
    skipped = [Skipped('=HYPERLINK("http://x")', "raw/@SUM(1).png cannot be opened"), Skipped("-1", '\'=a, "b"')]
    (tmp_path / "skipped.csv").write_text(skipped_csv(skipped))
    assert "'=HYPERLINK" in (tmp_path / "skipped.csv").read_text()
    assert load_skipped(tmp_path) == skipped


def test_names_of_raw_files_reach_the_list_as_printable_text(raw, tmp_path):
    bad = "\x1b[2J\nerror: forged"
    (raw / f"{bad}.png").write_bytes(b"not an image")
    write(raw, tmp_path / "train", ["k01", bad])
    ((_, reason),) = [(one.item, one.reason) for one in load_skipped(tmp_path / "train")]
    assert r"\x1b[2J\nerror: forged.png cannot be read" in reason
    assert all(line.isprintable() for line in (tmp_path / "train" / "skipped.csv").read_text().splitlines())


def test_a_damaged_list_is_one_error_that_names_it(tmp_path):
    (tmp_path / "skipped.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ShardError, match=r"skipped\.csv cannot be read: KeyError"):
        load_skipped(tmp_path)
