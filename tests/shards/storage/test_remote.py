"""Tests of shards behind a URL: same samples as in the folder, or a one-line error, whatever the server does."""

import importlib.util
import io
import json
import os
import pickle
import shutil
import socket
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shard_server
from shard_server import ShardServer, serving
from uml_shards import Cache, ShardError, open_split
from uml_shards.address import Address, parse_location
from uml_shards.importers import Options, find_importer
from uml_shards.read.plan import Plan, owned_slots
from uml_shards.read.stream import Stream
from uml_shards.storage.download import TRIES
from uml_shards.write.verify import verify
from uml_shards.write.writer import write_split

ROOT = Path(__file__).parents[3]
TAR, INDEX = "train/shard-000000.tar", "train/shard-000000.index.npy"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A phantom data set of one split: 6 shards of 4 samples."""
    folder = tmp_path_factory.mktemp("shards")
    importer = find_importer("phantom")(None, Options(size=16, counts={"train": 24}, lossless=True))
    write_split(importer, "train", importer.splits()["train"], folder / "train", samples_per_shard=4, quiet=True)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Use short pauses between tries, and a separate default cache for each test."""
    monkeypatch.setattr("uml_shards.storage.download.FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "data")


def contents(split):
    return [split.components(number) for number in range(len(split))]


def reason(url: str, cache: Cache) -> str:
    """Return the one-line error raised when reading all samples of the data set at a URL."""
    with pytest.raises(ShardError) as caught:
        contents(open_split(f"{url}/train", cache))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def kept(cache: Cache) -> list[Path]:
    """Return the complete and the partial files in a cache."""
    assert isinstance(cache.folder, Path)
    return [path for path in cache.folder.iterdir() if path.is_file() and path.suffix != ".ok"]


def test_remote_split_equals_the_local_one(made, cache):
    local = open_split(made / "train")
    with serving(ShardServer(made)) as server:
        split = open_split(f"{server.url}/train/", cache)
        assert contents(split) == contents(local)
        assert split.keys() == local.keys()
        assert split.manifest.digest == local.manifest.digest
        assert f"{split.path / 'x'}" == f"{server.url}/train/x"
    assert pickle.loads(pickle.dumps(split)).read(5).key == local.read(5).key  # from the cache


def test_each_file_is_fetched_once_and_the_manifest_at_every_opening(made, cache):
    with serving(ShardServer(made)) as server:
        for _ in range(2):
            contents(open_split(f"{server.url}/train", cache))
        assert server.asked_names(".tar") == {f"train/shard-{number:06d}.tar": 1 for number in range(6)}
        assert set(server.asked_names(".npy").values()) == {1}
        assert server.asked_names("manifest.json") == {"train/manifest.json": 2}


def test_a_rank_fetches_the_shards_of_its_slots_only(made, cache):
    with serving(ShardServer(made)) as server:
        split = open_split(f"{server.url}/train", cache)
        assert server.asked_names(".tar") == {}
        plan = Plan([shard.samples for shard in split.manifest.shards], slots=6)
        stream = Stream(split, plan, (16, 16), split.manifest.statistics)
        positions = [6 * step + slot for step in range(4) for slot in owned_slots(6, rank=1, ranks=3)]
        keys = {stream.sample(position).key for position in positions}
        assert len(keys) == 8  # a third of an epoch
        soon = [position + stream.ahead * 6 for position in positions]  # prefetched, since they come next
        lanes = {split.locate(plan.sample(position))[0] for position in positions}
        allowed = lanes | {split.locate(plan.sample(position))[0] for position in soon}
        asked = {int(name[-10:-4]) for name in server.asked_names(".tar")}
        assert len(lanes) == 2
        assert lanes <= asked <= allowed


def test_broken_connections_are_resumed(made, cache):
    with serving(shard_server.Dropping(made)) as server:
        assert contents(open_split(f"{server.url}/train", cache)) == contents(open_split(made / "train"))
        assert set(server.asked_names(".tar").values()) == {3}
        for name in server.asked_names(".tar"):
            assert server.sent[name] == (made / name).stat().st_size  # no byte twice
            assert [asked is not None for other, asked in server.asked if other == name] == [False, True, True]


@pytest.mark.parametrize(
    "kind",
    [
        shard_server.DroppingWithoutRanges,
        shard_server.Changing,
        shard_server.Shrinking,
        shard_server.ShrinkingManifest,
    ],
)
def test_transfer_that_cannot_be_resumed_starts_over(made, cache, kind):
    with serving(kind(made)) as server:
        assert contents(open_split(f"{server.url}/train", cache)) == contents(open_split(made / "train"))


@pytest.mark.parametrize("kind", [shard_server.FlippingOnce, shard_server.Busy])
def test_transient_failures_are_retried(made, cache, kind):
    with serving(kind(made)) as server:
        assert contents(open_split(f"{server.url}/train", cache)) == contents(open_split(made / "train"))


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (shard_server.Truncating, "bytes, the manifest states"),
        (shard_server.Flipping, "its sha256 differs from the manifest's: it is damaged or belongs to other shards"),
    ],
)
def test_wrong_content_is_never_kept(made, cache, kind, problem):
    with serving(kind(made)) as server:
        line = reason(server.url, cache)
        assert line.startswith(f"{server.url}/{TAR} cannot be read: ")
        assert problem in line
        assert server.asked_names(".tar") == {TAR: TRIES}
    assert len(kept(cache)) == 6  # the indices


def test_silent_connection_times_out_and_is_retried(made, cache, monkeypatch):
    monkeypatch.setattr("uml_shards.storage.remote.TIMEOUT_SECONDS", 0.3)
    with serving(shard_server.Silent(made)) as server:
        assert open_split(f"{server.url}/train", cache).components(0) == open_split(made / "train").components(0)
        assert server.asked_names(".tar") == {TAR: 2}


def test_server_that_stays_silent_is_given_up(made, cache, monkeypatch):
    monkeypatch.setattr("uml_shards.storage.remote.TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr("uml_shards.storage.download.TRIES", 2)
    with serving(shard_server.AlwaysSilent(made)) as server:
        assert "fewer than 10000 bytes per second; gave up after 2 tries" in reason(server.url, cache)


@pytest.mark.parametrize("pause", [0.01, 0.0])
@pytest.mark.parametrize("part", shard_server.TRICKLES)
def test_server_whose_answer_never_ends_is_given_up(made, cache, monkeypatch, part, pause):
    monkeypatch.setattr("uml_shards.storage.remote.TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr("uml_shards.storage.remote.LEAST_RATE", 1_000_000)
    monkeypatch.setattr("uml_shards.storage.download.TRIES", 2)
    monkeypatch.setattr("uml_shards.storage.storage.MAX_BYTES", 100_000)
    with serving(shard_server.Trickling(made)) as server:
        server.opening, server.repeated = shard_server.TRICKLES[part]
        server.pause = pause
        line = reason(server.url.replace("http://", "http://reader:word@"), cache)
    assert line.startswith(f"{server.url}/train/manifest.json cannot be read: ")
    assert line.endswith("gave up after 2 tries")
    assert "word" not in line


def test_body_of_a_redirect_is_not_read(made, cache, monkeypatch):
    monkeypatch.setattr("uml_shards.storage.remote.TIMEOUT_SECONDS", 5.0)
    with serving(ShardServer(made)) as second, serving(shard_server.Trickling(made)) as first:
        first.opening = f"HTTP/1.1 302 Found\r\nLocation: {second.url}/none\r\n\r\n".encode()
        assert "404 Not Found" in reason(first.url, cache)
        assert second.asked_names() == {"none": 1}


def test_a_slow_server_that_keeps_the_least_rate_is_read_to_the_end(made, cache, monkeypatch):
    monkeypatch.setattr("uml_shards.storage.remote.TIMEOUT_SECONDS", 0.6)
    monkeypatch.setattr("uml_shards.storage.remote.LEAST_RATE", 1000)
    size = len((made / "train" / "manifest.json").read_bytes())
    with serving(shard_server.Trickling(made)) as server:
        server.opening = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
        server.repeated, server.pause = b"x" * (size // 12), 0.1
        with pytest.raises(ShardError, match="is not a manifest"):
            open_split(f"{server.url}/train", cache)
        assert server.asked_names() == {"train/manifest.json": 1}


def test_oversized_index_is_not_read_to_its_end(made, cache):
    with serving(shard_server.Endless(made)) as server:
        assert f"{server.url}/{INDEX} cannot be read: the file has more than" in reason(server.url, cache)


def test_missing_file_is_requested_once(copy, cache):
    (copy / TAR).unlink()
    with serving(ShardServer(copy)) as server:
        assert reason(server.url, cache) == (
            f"{server.url}/{TAR} cannot be read: the server returned 404 Not Found: check the address"
        )
        assert server.asked_names(".tar") == {TAR: 1}


def test_missing_server_is_reported_in_one_line(cache):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "Connection refused; gave up after 5 tries" in reason(f"http://127.0.0.1:{port}", cache)


def test_redirect_to_a_file_is_refused(made, cache):
    with serving(shard_server.Redirecting(made)) as server:
        server.target = f"file://{made}"
        assert "the server returned 302, a redirect to another scheme" in reason(server.url, cache)
        assert len(server.asked) == 1


def test_redirect_to_another_server_is_followed_without_the_password(made, cache):
    with serving(ShardServer(made)) as second, serving(shard_server.Redirecting(made)) as first:
        first.target = second.url
        assert len(open_split(f"http://reader:word@{first.host}/train", cache)) == 24
        assert all("Authorization" in headers for headers in first.headers)
        assert not any("Authorization" in headers for headers in second.headers)


def test_credentials_are_used_and_never_shown(copy, cache, tmp_path):
    empty = Cache(tmp_path / "empty")
    with serving(shard_server.Guarded(copy)) as server:
        assert "401 Unauthorized" in reason(server.url, cache)
        for location in (f"http://reader:pa%2Fss@{server.host}/train", f"{server.url}/train?{server.token}"):
            split = open_split(location, cache)
            assert split.read(0).key
            (copy / "train" / "shard-000005.tar").rename(copy / "gone.tar")
            with pytest.raises(ShardError, match="404") as caught:
                open_split(location, empty).read(23)
            (copy / "gone.tar").rename(copy / "train" / "shard-000005.tar")
            shown = f"{caught.value} {split.path} {split.path!r} {kept(cache)}"
            assert not any(secret in shown for secret in ("reader", "pa%2Fss", "pa/ss", "abc123"))


def test_manifest_cannot_refer_to_files_in_other_folders(copy, cache):
    path = copy / "train" / "manifest.json"
    for name in ("../train/shard-000000.tar", "/etc/passwd", "..", "a\\b"):
        manifest = json.loads(path.read_text())
        manifest["shards"][0]["name"] = name
        (copy / "other").mkdir(exist_ok=True)
        (copy / "other" / "manifest.json").write_text(json.dumps(manifest))
        with serving(ShardServer(copy)) as server, pytest.raises(ShardError, match=r"shards\.0\.name") as caught:
            open_split(f"{server.url}/other", cache)
        assert str(caught.value).startswith(f"{server.url}/other/manifest.json is not a manifest")


def test_replaced_shards_on_the_server_are_fetched_again(copy, cache):
    with serving(ShardServer(copy)) as server:
        old = contents(open_split(f"{server.url}/train", cache))
        importer = find_importer("phantom")(None, Options(size=16, seed=1, counts={"train": 24}, lossless=True))
        source = importer.splits()["train"]
        write_split(importer, "train", source, copy / "train", samples_per_shard=4, overwrite=True, quiet=True)
        new = contents(open_split(f"{server.url}/train", cache))
    assert new == contents(open_split(copy / "train"))
    assert new != old


@pytest.mark.parametrize("scheme", ["memory://shards", "file://{}"])
def test_other_schemes_are_read_by_fsspec(made, cache, scheme):
    fsspec = pytest.importorskip("fsspec")
    url = scheme.format(made)
    memory = fsspec.filesystem("memory")
    memory.put(f"{made}/train/*", "/shards/train/")
    try:
        assert contents(open_split(f"{url}/train", cache)) == contents(open_split(made / "train"))
        absent = reason(f"{url}/absent", cache)
        assert absent == f"{url}/absent/train/manifest.json cannot be read: the file does not exist: check the address"
    finally:
        memory.rm("/shards", recursive=True)


def test_transfers_of_other_schemes_are_resumed(made, cache):
    fsspec = pytest.importorskip("fsspec")
    local = pytest.importorskip("fsspec.implementations.local")
    opened: list[str] = []

    class Breaking(local.LocalFileSystem):
        """Each tar fails once after 3000 bytes."""

        protocol = "breaking"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:  # older versions of fsspec do not know our protocol
            return super()._strip_protocol(path.removeprefix("breaking://"))

        def open(self, path: str, *arguments, **words):
            file = super().open(path, *arguments, **words)
            opened.append(path)
            if path.endswith(".tar") and opened.count(path) == 1:
                intact, file = file, Broken(path, "rb")
                intact.close()
            return file

    class Broken(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            if self.tell() >= 3000:
                raise ConnectionResetError(104, "Connection reset by peer")
            return super().read(min(size, 3000))

    fsspec.register_implementation("breaking", Breaking, clobber=True)
    assert contents(open_split(f"breaking://{made}/train", cache)) == contents(open_split(made / "train"))
    assert {opened.count(path) for path in opened if path.endswith(".tar")} == {2}


def test_file_system_that_hangs_is_given_up(made, cache, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    local = pytest.importorskip("fsspec.implementations.local")
    closing = threading.Event()

    class Hanging(local.LocalFileSystem):
        protocol = "hanging"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return super()._strip_protocol(path.removeprefix("hanging://"))  # older versions know their own names only

        def open(self, path: str, *arguments, **words):
            closing.wait()

    fsspec.register_implementation("hanging", Hanging, clobber=True)
    monkeypatch.setattr("uml_shards.storage.remote.BLOCK_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr("uml_shards.storage.download.TRIES", 2)
    assert "fewer than 10000 bytes per second; gave up after 2 tries" in reason(f"hanging://{made}", cache)
    closing.set()


def test_pipe_behind_a_file_url_is_refused_at_once(copy, cache):
    pytest.importorskip("fsspec")
    (copy / "train" / "manifest.json").unlink()
    os.mkfifo(copy / "train" / "manifest.json")
    assert "cannot be read: it is not a regular file" in reason(f"file://{copy}", cache)


def test_missing_fsspec_is_reported_in_one_line(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    assert "s3:// needs fsspec: pip install 'uml-shards[remote]'" in reason("s3://bucket/data", cache)


def test_unknown_scheme_is_reported_in_one_line(cache):
    assert "Protocol not known: nobody" in reason("nobody://shards", cache)


def test_only_a_scheme_with_two_slashes_is_a_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ShardError, match="shard folder pipe:touch evidence does not exist"):
        open_split("pipe:touch evidence")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["http://[", "http://host:port/x", "http://host/x\n", "http://host:99999/"])
def test_invalid_url_is_reported_in_one_line(url, cache):
    with pytest.raises(ShardError, match="is not a valid URL"):
        open_split(url, cache)


words = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=8)
names = st.text(min_size=1, max_size=8).filter(lambda name: "/" not in name and name.isprintable())


@given(name=names.filter(lambda name: not set(name) & set("?#")))
def test_address_without_a_host_keeps_its_slashes(name):
    address = Address("abfs:///data/train/") / name
    assert (str(address), address.name) == (f"abfs:///data/train/{name}", name)
    assert str(address.parent.parent) == "abfs:///data"


@given(user=words, password=words, token=words, name=names)
def test_address_supports_path_operations_and_hides_credentials(user, password, token, name):
    address = parse_location(f"https://{user}0:{password}1@host:8000/data/train?{token}2")
    assert isinstance(address, Address)
    inside = address / name
    assert (inside.name, inside.parent) == (name, address)
    assert str(address) == "https://host:8000/data/train"
    assert inside.url.startswith(f"https://{user}0:{password}1@host:8000/data/train/")
    assert inside.url.endswith(f"?{token}2")
    assert address.redact(f"no {address.url} for {user}0:{password}1") == f"no {address} for ..."


def test_verify_detects_and_replaces_damaged_cached_files(made, cache):
    with serving(ShardServer(made)) as server:
        contents(open_split(f"{server.url}/train", cache))
        for path in kept(cache):
            flip(path)
        assert verify(f"{server.url}/train", cache=cache, quiet=True) == []
        assert set(server.asked_names(".tar").values()) == {2}
        assert contents(open_split(f"{server.url}/train", cache)) == contents(open_split(made / "train"))


def flip(path: Path) -> None:
    """Change a byte without changing the file's timestamps, like a bad disk."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_verify_names_every_damaged_tar_by_its_url(copy, cache):
    for name in ("shard-000001.tar", "shard-000004.tar"):
        flip(copy / "train" / name)
    with serving(ShardServer(copy)) as server:
        problems = verify(f"{server.url}/train", cache=cache, quiet=True)
        assert [line.partition(" ")[0] for line in problems] == [
            f"{server.url}/train/shard-000001.tar",
            f"{server.url}/train/shard-000004.tar",
        ]


def test_commands_describe_and_verify_a_url(made, capsys):
    specification = importlib.util.spec_from_file_location("shards_command", ROOT / "launchers" / "shards.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    with serving(shard_server.Guarded(made)) as server:
        url = f"http://reader:pa%2Fss@{server.host}/train"
        assert module.main(["info", url]) == 0
        assert "Apache-2.0" in capsys.readouterr().out
        assert server.asked_names() == {"train/manifest.json": 1}
        assert module.main(["verify", url, "--quiet"]) == 0
        assert capsys.readouterr().out == f"{server.url}/train: no problems found\n"
        assert module.main(["verify", f"{server.url}/absent", "--quiet"]) == 2
        assert "401 Unauthorized" in capsys.readouterr().err
