"""Tests of the cache: one fetch for all processes, checked content, a size limit, and safe removal."""

import hashlib
import multiprocessing
import os
import stat
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard_server import ShardServer, Silent, serving
from uml_shards import Cache, ShardError
from uml_shards.address import Address
from uml_shards.storage.cache import default_folder
from uml_shards.storage.download import Content

KILOBYTE = 1e-6
"""A kilobyte in gigabytes."""

IMPORTS = """
from pathlib import PosixPath
from uml_shards import Cache, ShardError
from uml_shards.address import Address
from uml_shards.storage.download import Content
"""
IN_CACHE = "{!r}.file(Address({!r}), {!r})"


@pytest.fixture(autouse=True)
def near(monkeypatch):
    monkeypatch.setattr("uml_shards.storage.download.FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    """A folder of five files of 1000 bytes, a.tar to e.tar."""
    folder = tmp_path_factory.mktemp("remote")
    for number, name in enumerate("abcde"):
        (folder / f"{name}.tar").write_bytes(bytes([number]) * 1000)
    return folder


@pytest.fixture
def server(remote):
    with serving(ShardServer(remote)) as server:
        yield server


def content_of(path: Path) -> Content:
    data = path.read_bytes()
    return Content(len(data), len(data), hashlib.sha256(data).hexdigest())


def get(cache: Cache, server: ShardServer, name: str, **words) -> bytes:
    """Read one of the five files through a cache."""
    content = content_of(server.folder / f"{name}.tar")
    with cache.file(Address(f"{server.url}/{name}.tar"), content, **words) as path:
        return path.read_bytes()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file() and path.suffix != ".ok"]


def read_all(url: str, remote: Path, folder: Path, gigabytes: float | None, barrier) -> bool:
    """Read all five files twice, in a separate process that starts together with the others."""
    cache = Cache(folder, gigabytes)
    barrier.wait()
    good = True
    for name in "abcdeabcde":
        wanted = remote / f"{name}.tar"
        with cache.file(Address(f"{url}/{name}.tar"), content_of(wanted)) as path:
            good &= path.read_bytes() == wanted.read_bytes()
    return good


def in_processes(number: int, *arguments) -> list[bool]:
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager, context.Pool(number) as pool:
        barrier = manager.Barrier(number)
        return pool.starmap(read_all, [(*arguments, barrier)] * number, chunksize=1)


def test_several_processes_fetch_each_file_once(server, tmp_path):
    assert all(in_processes(4, server.url, server.folder, tmp_path / "cache", None))
    assert server.asked_names() == {f"{name}.tar": 1 for name in "abcde"}


def test_several_processes_can_share_a_cache_that_is_too_small(server, tmp_path):
    """The cache may exceed its limit only while all its files are in use."""
    assert all(in_processes(4, server.url, server.folder, tmp_path / "cache", 2.5 * KILOBYTE))
    for name in "abcde":
        get(Cache(tmp_path / "cache", 2.5 * KILOBYTE), server, name)
    assert len(files(tmp_path / "cache")) == 2


@settings(max_examples=25, deadline=None)
@given(wanted=st.lists(st.sampled_from("abcde"), max_size=15), room=st.integers(1, 4))
def test_least_recently_used_files_are_removed(remote, tmp_path_factory, wanted, room):
    cache = Cache(tmp_path_factory.mktemp("cache"), (room + 0.5) * KILOBYTE)
    model: OrderedDict[str, None] = OrderedDict()
    with serving(ShardServer(remote)) as server:
        for name in wanted:
            before = len(server.asked)
            assert get(cache, server, name) == (remote / f"{name}.tar").read_bytes()
            assert (len(server.asked) == before) == (name in model)
            model[name] = None
            model.move_to_end(name)
            if len(model) > room:
                model.popitem(last=False)
            assert isinstance(cache.folder, Path)
            assert {path.read_bytes()[0] for path in files(cache.folder)} == {"abcde".index(name) for name in model}


def test_a_file_in_use_is_not_removed(server, tmp_path):
    cache = Cache(tmp_path / "cache", 1.5 * KILOBYTE)
    with cache.file(Address(f"{server.url}/a.tar"), content_of(server.folder / "a.tar")) as path:
        get(cache, server, "b")
        assert path.is_file()
    get(cache, server, "c")
    assert not path.is_file()


def test_open_file_stays_readable_after_its_removal(server, tmp_path):
    cache = Cache(tmp_path / "cache", 1.5 * KILOBYTE)
    with cache.file(Address(f"{server.url}/b.tar"), content_of(server.folder / "b.tar")) as path:
        descriptor = os.open(path, os.O_RDONLY)
    get(cache, server, "c")
    assert not path.exists()
    assert os.pread(descriptor, 2000, 0) == bytes([1]) * 1000
    os.close(descriptor)
    assert get(cache, server, "b") == bytes([1]) * 1000


def test_file_larger_than_the_cache_is_refused(server, tmp_path):
    with pytest.raises(
        ShardError, match=r"a\.tar has 1000 bytes, but the cache is limited to 500: allow more gigabytes"
    ):
        get(Cache(tmp_path / "cache", 0.5 * KILOBYTE), server, "a")
    assert server.asked == []


@pytest.mark.parametrize("data", [b"", bytes(999), bytes(1001), b"\1" + bytes(999)])
def test_modified_cached_file_is_fetched_again(server, tmp_path, data):
    cache = Cache(tmp_path)
    get(cache, server, "a")
    (kept,) = files(tmp_path)
    kept.write_bytes(data)
    assert get(cache, server, "a") == bytes(1000)
    assert len(server.asked) == 2


def test_flipped_byte_without_changed_mtime_is_detected_by_rehash(server, tmp_path):
    cache = Cache(tmp_path)
    get(cache, server, "a")
    (kept,) = files(tmp_path)
    times = kept.stat()
    kept.write_bytes(b"\1" + bytes(999))
    os.utime(kept, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert get(cache, server, "a", rehash=True) == bytes(1000)


def test_valid_file_without_record_is_checked_and_not_fetched_again(server, tmp_path):
    cache = Cache(tmp_path)
    get(cache, server, "a")
    (record,) = tmp_path.glob("*.ok")
    record.unlink()
    assert get(cache, server, "a") == bytes(1000)
    assert len(server.asked) == 1
    assert record.is_file()


def test_files_of_different_splits_or_versions_are_kept_apart(tmp_path):
    for split, byte in (("train", 1), ("val", 2)):
        (tmp_path / split).mkdir()
        (tmp_path / split / "shard.tar").write_bytes(bytes([byte]) * 10)
    cache = Cache(tmp_path / "cache")
    with serving(ShardServer(tmp_path)) as server:
        for _ in range(2):
            for split in ("train", "val"):
                path = tmp_path / split / "shard.tar"
                with cache.file(Address(f"{server.url}/{split}/shard.tar"), content_of(path)) as kept:
                    assert kept.read_bytes() == path.read_bytes()
            (tmp_path / "train" / "shard.tar").write_bytes(bytes([3]) * 10)
    assert len(files(tmp_path / "cache")) == 3


def test_killed_fetch_does_not_block_others(remote, tmp_path):
    """The partial file counts towards the limit and can be removed for other files, and its lock is released."""
    cache = Cache(tmp_path / "cache", 1.5 * KILOBYTE)
    with serving(Silent(remote)) as server:
        content = content_of(remote / "a.tar")
        code = f"with {IN_CACHE.format(cache, f'{server.url}/a.tar', content)}: pass"
        with subprocess.Popen([sys.executable, "-c", IMPORTS + code]) as process:
            while not server.sent["a.tar"]:
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
        assert isinstance(cache.folder, Path)
        assert [path.suffix for path in files(cache.folder)] == [".part"]
        server.asked.append(("b.tar", None))  # so that the server answers this file at once
        assert get(cache, server, "b") == bytes([1]) * 1000
        assert [path.suffix for path in files(cache.folder)] == [""]
        assert get(cache, server, "a") == bytes(1000)


def test_failed_fetch_leaves_no_file(server, tmp_path):
    content = Content(1000, 1000, "0" * 64)
    with (
        pytest.raises(ShardError, match="sha256 differs from"),
        Cache(tmp_path).file(Address(f"{server.url}/a.tar"), content),
    ):
        pass
    assert files(tmp_path) == []


def test_folder_is_created_on_first_use_and_private(server, tmp_path):
    cache = Cache(tmp_path / "new" / "cache")
    assert not (tmp_path / "new").exists()
    get(cache, server, "a")
    assert stat.S_IMODE((tmp_path / "new" / "cache").stat().st_mode) == 0o700


def test_folder_that_cannot_be_created_is_reported_in_one_line(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        ShardError, match=r"cache folder .*file/cache cannot be created: Not a directory: choose another"
    ):
        get(Cache(tmp_path / "file" / "cache"), server, "a")


def test_full_disk_is_reported_in_one_line_and_leaves_no_file(server, tmp_path):
    """Simulate a full disk with a limit on file sizes: the system refuses the write."""
    wanted = IN_CACHE.format(Cache(str(tmp_path)), f"{server.url}/a.tar", content_of(server.folder / "a.tar"))
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        f"try:\n  with {wanted}: pass\nexcept ShardError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", IMPORTS + code], capture_output=True, text=True, check=True)
    message = (
        f"cache folder {tmp_path} cannot be used: File too large: free disk space, limit the cache or choose another "
        "folder"
    )
    assert done.stdout.splitlines() == [message]
    assert files(tmp_path) == []


@pytest.mark.parametrize(("base", "folder"), [("/scratch", "/scratch/uml_shards"), ("scratch", ""), ("", "")])
def test_default_folder_follows_the_environment(monkeypatch, base, folder):
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    monkeypatch.setenv("HOME", "/nowhere/someone")
    assert default_folder() == Path(folder or "/nowhere/someone/.cache/uml_shards")
