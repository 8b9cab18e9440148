"""Tests of hashing local shards at their first use."""

import hashlib
import multiprocessing
import os
import pickle
import shutil
import time
from pathlib import Path

import pytest

from uml_shards import ShardError, open_split
from uml_shards.importers import Options, find_importer
from uml_shards.read.plan import InOrder
from uml_shards.read.stream import Stream
from uml_shards.write.verify import verify
from uml_shards.write.writer import write_split

REFUSED = r"shard-000001\.tar: its sha256 differs from the manifest's, so its contents changed: copy or make it again"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A phantom split of 2 shards of 3 samples."""
    folder = tmp_path_factory.mktemp("shards") / "train"
    importer = find_importer("phantom")(None, Options(size=16, counts={"train": 6}, lossless=True))
    write_split(importer, "train", importer.splits()["train"], folder, samples_per_shard=3, quiet=True)
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy whose files do not change any more, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("uml_shards.storage.verified.SETTLED_NS", 0)
    return shutil.copytree(made, tmp_path / "train")


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files that are hashed."""
    names, digest = [], hashlib.file_digest

    def counted(file, algorithm):
        names.append(Path(file.name).name if isinstance(file.name, str) else file.name)
        return digest(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    return names


def flip(folder: Path, keep_times: bool = False) -> None:
    """Change a byte in the padding at the end of a tar, which no decoder reads."""
    tar = folder / "shard-000001.tar"
    times = tar.stat()
    with tar.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    if keep_times:
        os.utime(tar, ns=(times.st_atime_ns, times.st_mtime_ns))


def read_all(folder: Path) -> int:
    split = open_split(folder)
    return len([split.read(number) for number in range(len(split))])


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_change_of_bytes_is_an_error_that_names_the_shard(folder, keep_times):
    assert read_all(folder) == 6
    flip(folder, keep_times)
    split = open_split(folder)
    split.read(0)
    with pytest.raises(ShardError, match=REFUSED) as caught:
        split.read(3)
    assert caught.value.reason == "tar"
    assert "\n" not in str(caught.value)


def test_never_reads_changed_bytes(folder, hashed):
    flip(folder)
    split = open_split(folder, verify="never")
    assert split.read(3).key
    assert hashed == []


def test_a_shard_is_hashed_once_even_by_several_processes(folder, hashed):
    read_all(folder)
    assert len(hashed) == 2
    read_all(folder)
    assert len(hashed) == 2


def test_a_damaged_shard_is_hashed_once_by_a_stream_that_skips(folder, hashed):
    flip(folder)
    split = open_split(folder)
    stream = Stream(split, InOrder(6), (16, 16), split.manifest.statistics, on_bad_sample="skip")
    assert [stream.sample(number).weight for number in range(6)] == [1, 1, 1, 0, 0, 0]
    assert len(hashed) == 2


def test_verify_always_hashes(folder, hashed):
    read_all(folder)
    assert verify(folder, quiet=True) == []
    assert len(hashed) == 4


def test_a_young_file_is_not_recorded(folder, hashed, monkeypatch):
    monkeypatch.setattr("uml_shards.storage.verified.SETTLED_NS", 3600 * 10**9)
    read_all(folder)
    read_all(folder)
    assert len(hashed) == 4


def test_without_a_cache_each_process_hashes(folder, hashed, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    split = open_split(folder)
    for _ in range(2):
        assert [split.read(number).weight for number in range(6)] == [1] * 6
        split = pickle.loads(pickle.dumps(split))  # keeps what is known
    assert len(hashed) == 2
    read_all(folder)
    assert len(hashed) == 4


def test_processes_that_start_together_agree(folder):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(read_all, [folder] * 8) == [6] * 8
    records = list((folder.parent / "cache" / "uml_shards" / "verified").iterdir())
    assert len(records) == 2
    assert all(record.stat().st_size == 0 for record in records)
    flip(folder)
    time.sleep(0.01)
    with pytest.raises(ShardError, match=REFUSED):
        read_all(folder)


@pytest.mark.parametrize("name", ["shard-000001.tar", "shard-000001.index.npy"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_not_a_regular_file_is_refused_at_once(folder, name, make):
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(ShardError, match=r"shard-000001\.(tar: has \d+ bytes|index\.npy cannot be read: it is not)"):
        read_all(folder)


def test_an_index_of_more_bytes_than_its_samples_need_is_not_read(folder):
    with (folder / "shard-000001.index.npy").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(ShardError, match=r"index\.npy cannot be read: it has more than \d{4} bytes"):
        open_split(folder)
