"""Counts of what is read from shards: exact, whichever process reads, and nobody's counts are taken twice."""

import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from shard_server import ShardServer, serving
from uml_shards import Cache, open_split, tally
from uml_shards.importers import Options
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.read.loader import load
from uml_shards.read.plan import InOrder
from uml_shards.read.stream import Stream
from uml_shards.write.writer import write_split

SAMPLES, SHARDS = 12, 3
REQUESTS = [{"train": [number, number + 1]} for number in range(0, SAMPLES, 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / "train"
    importer = PhantomImporter(None, Options(size=16, counts={"train": SAMPLES}))
    write_split(importer, "train", importer.splits()["train"], folder, samples_per_shard=4, quiet=True)
    return folder


@pytest.fixture(autouse=True)
def nothing_counted(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    tally.take()


def numbers(stream, samples, positions):
    return [torch.tensor(position) for position in positions]


def stream_of(split) -> Stream:
    return Stream(split, InOrder(SAMPLES), (16, 16), split.manifest.statistics)


def read(stream: Stream, workers: int = 0) -> dict:
    assert len(list(load({"train": stream}, REQUESTS, numbers, workers=workers))) == len(REQUESTS)
    return tally.take()


def bytes_of_samples(folder) -> int:
    """Bytes from the first header of each sample to the end of its last file, by Python's own reader of tars."""
    total = 0
    for path in folder.glob("*.tar"):
        spans: dict[str, list[int]] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                spans.setdefault(member.name.partition(".")[0], []).extend(
                    (member.offset, member.offset_data + member.size)
                )
        total += sum(max(span) - min(span) for span in spans.values())
    return total


def test_bytes_and_shards_are_those_of_the_tars(folder):
    expected = {"shards_opened": SHARDS, "shard_read_bytes": bytes_of_samples(folder)}
    assert read(stream_of(open_split(folder))) == expected
    assert tally.take() == {}


def test_workers_pass_their_counts_on_with_their_batches(folder):
    stream = stream_of(open_split(folder))
    tally.count("cache_misses", 5)  # of this process: a forked worker must not pass them on as its own
    found = read(stream, workers=2)
    assert found["shard_read_bytes"] == bytes_of_samples(folder)
    assert found["cache_misses"] == 5
    assert SHARDS <= found["shards_opened"] <= 2 * SHARDS, "each worker opens the shards that it reads"


def test_lookups_in_the_cache_are_counted_by_their_outcome(folder, tmp_path):
    cache = Cache(tmp_path / "cache")
    with serving(ShardServer(folder.parent)) as server:
        first = read(stream_of(open_split(f"{server.url}/train", cache)))
        files = 2 * SHARDS  # tars and their indices
        assert first["cache_misses"] == files
        again = read(stream_of(open_split(f"{server.url}/train", cache)))
    assert "cache_misses" not in again
    assert again["cache_hits"] >= files
    assert first["shard_read_bytes"] == again["shard_read_bytes"] == bytes_of_samples(folder)


def test_threads_lose_no_count_and_a_fork_during_one_can_go_on():
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(lambda: [tally.count("shards_opened") for _ in range(5000)])
    assert tally.take() == {"shards_opened": 20_000}
    with tally._tally.lock:
        child = os.fork()
        if child == 0:
            tally.count("shards_opened")
            os._exit(tally.take()["shards_opened"])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
