"""Tests of prefetching remote shards, whose failures must not raise errors."""

import threading
import time

import pytest

from shard_server import ShardServer, Truncating, serving
from uml_shards import Cache, ShardError, open_split
from uml_shards.importers import Options
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.read.plan import InOrder
from uml_shards.read.stream import Stream
from uml_shards.storage.prefetch import AT_ONCE
from uml_shards.write.writer import write_split

SAMPLES = 100


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prefetch")
    importer = PhantomImporter(None, Options(size=16, counts={"train": SAMPLES, "val": 0, "test": 0}))
    write_split(importer, "train", importer.splits()["train"], folder / "train", samples_per_shard=20, quiet=True)
    return folder


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def stream_of(server, tmp_path):
    split = open_split(f"{server.url}/train", Cache(tmp_path / "cache"))
    return Stream(split, InOrder(SAMPLES), (16, 16), split.manifest.statistics)


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def asked(server):
    return set(server.asked_names(".tar"))


def test_shard_is_prefetched_while_earlier_samples_are_read(made, tmp_path):
    with serving(ShardServer(made)) as server:
        stream = stream_of(server, tmp_path)
        stream.sample(0)
        shard, _ = stream.split.locate(stream.ahead)
        assert shard > 0
        ahead = f"train/{stream.split.manifest.shards[shard].name}"
        wait_for(lambda: ahead in asked(server))
        assert asked(server) == {"train/shard-000000.tar", ahead}
        for position in range(SAMPLES):
            stream.sample(position)
        assert set(server.asked_names(".tar").values()) == {1}  # and nothing was fetched twice


def test_number_of_concurrent_prefetches_is_limited(made, tmp_path):
    class Slow(ShardServer):
        def __init__(self, folder):
            super().__init__(folder)
            self.go_on = threading.Event()

        def answer(self, handler, name, visit):
            if name.endswith(".tar"):
                self.go_on.wait(20)
            super().answer(handler, name, visit)

    with serving(Slow(made)) as server:
        split = open_split(f"{server.url}/train", Cache(tmp_path / "cache"))
        for number in range(0, SAMPLES, 20):
            split.prefetch(number)
        wait_for(lambda: len(asked(server)) == AT_ONCE)
        server.go_on.set()
        assert len(split.read(SAMPLES - 1).key)


def test_failed_prefetch_affects_only_samples_of_its_shard(made, tmp_path, monkeypatch):
    monkeypatch.setattr("uml_shards.storage.download.FIRST_PAUSE_SECONDS", 0.001)

    class Broken(Truncating):
        def answer(self, handler, name, visit):
            last = name.endswith("000004.tar")
            (Truncating if last else ShardServer).answer(self, handler, name, visit)

    with serving(Broken(made)) as server:
        stream = stream_of(server, tmp_path)
        first = [stream.sample(position).key for position in range(SAMPLES - 20)]
        assert len(set(first)) == SAMPLES - 20
        with pytest.raises(ShardError, match=r"000004\.tar cannot be read") as caught:
            stream.sample(SAMPLES - 1)
        assert caught.value.reason == "remote"


def test_local_folder_starts_no_thread(made):
    split = open_split(made / "train")
    before = threading.active_count()
    split.prefetch(0)
    assert (threading.active_count(), split._prefetch) == (before, None)
