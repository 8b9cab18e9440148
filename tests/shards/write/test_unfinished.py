"""Tests that an interrupted run loses neither finished shards nor an older split."""

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from uml_shards import Manifest, ShardError
from uml_shards.importers import Importer, Options, Source, find_importer
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.write.unfinished import FOLDER, open_unfinished
from uml_shards.write.verify import verify
from uml_shards.write.writer import unwritten, write_split

FORK = multiprocessing.get_context("fork")


class Killed(PhantomImporter):
    """The phantom, with its process killed at sample number KILL_AT, if that is set."""

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        if item[1] == int(os.environ.get("KILL_AT") or -1):
            parent = multiprocessing.parent_process()
            in_pool = parent is not None and os.environ["KILL_WHOM"] == "parent"
            os.kill(os.getppid() if in_pool else os.getpid(), signal.SIGKILL)
            time.sleep(600)
        return super().encode(item)


def source_of(count: int, kind: type[Importer] = Killed, **options: Any) -> tuple[Importer, Source]:
    importer = kind(None, Options(size=16, counts={"train": count}, **options))
    return importer, importer.splits()["train"]


def write(folder: Path, count: int = 12, *, seed: int = 0, **options: Any) -> Manifest:
    importer, source = source_of(count, seed=seed)
    return write_split(importer, "train", source, folder, samples_per_shard=2, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_in_a_process(folder: Path, **options: Any) -> int | None:
    process = FORK.Process(target=write, args=(folder,), kwargs={"quiet": True, **options})
    process.start()
    process.join(60)
    return process.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The files of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "train"
    write(folder, quiet=True)
    return contents(folder)


@pytest.fixture
def cut_short(tmp_path, monkeypatch) -> Path:
    """The folder of a run that was killed in the middle."""
    monkeypatch.setenv("KILL_AT", "5")
    monkeypatch.setenv("KILL_WHOM", "self")
    assert write_in_a_process(tmp_path / "train") == -signal.SIGKILL
    monkeypatch.setenv("KILL_AT", "")
    assert not (tmp_path / "train" / "manifest.json").exists()
    assert list((tmp_path / "train" / FOLDER).glob("*.tar"))
    return tmp_path / "train"


def test_finished_shards_of_a_killed_run_are_kept(cut_short, whole, capsys):
    kept = {path.stat().st_ino for path in (cut_short / FOLDER).glob("*.tar")}
    write(cut_short)
    assert f"{cut_short}: continuing with {2 * len(kept)} of 12 samples" in capsys.readouterr().err
    assert contents(cut_short) == whole
    assert kept <= {path.stat().st_ino for path in cut_short.glob("*.tar")}


def test_workers_end_with_a_killed_parent_and_the_next_run_continues(tmp_path, whole, monkeypatch, capsys):
    monkeypatch.setenv("KILL_AT", "5")
    monkeypatch.setenv("KILL_WHOM", "parent")
    assert write_in_a_process(tmp_path / "train", workers=2) == -signal.SIGKILL
    monkeypatch.setenv("KILL_AT", "")
    # The worker that killed its parent sleeps while holding the lock, unless it notices.
    write(tmp_path / "train", workers=2)
    assert contents(tmp_path / "train") == whole


@pytest.mark.parametrize("change", [{"seed": 1}, {"count": 13}, {"overwrite": True}])
def test_different_run_starts_over(cut_short, tmp_path, capsys, change):
    write(cut_short, **change)
    assert "continuing" not in capsys.readouterr().err
    write(tmp_path / "fresh", **{**change, "overwrite": False})
    assert contents(cut_short) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("name", ["tar", "json"])
@pytest.mark.parametrize("damage", [lambda data: data[:-700], lambda data: b"x" + data[1:], lambda data: b""])
def test_damaged_shard_of_a_killed_run_is_written_again(cut_short, whole, name, damage):
    path = min((cut_short / FOLDER).glob(f"shard-*.{name}"))
    path.write_bytes(damage(path.read_bytes()))
    write(cut_short, quiet=True)
    assert contents(cut_short) == whole


def steps_of(folder: Path, kill_at: int) -> None:
    """Write a split, and kill this process at its n-th change of a file in the folder."""
    changes = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        changed = event in ("os.rename", "os.remove") or (event == "open" and arguments[1] in ("w", "wb"))
        if changed and str(arguments[0]).startswith(str(folder)):
            changes += 1
            if changes == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    write(folder, quiet=True, overwrite=True)


def test_run_killed_before_any_file_change_loses_nothing(tmp_path, whole):
    older = tmp_path / "older"
    write(older, seed=1, quiet=True)
    before = contents(older)
    for step in range(1, 100):
        folder = tmp_path / str(step)
        folder.mkdir()
        for name, data in before.items():
            (folder / name).write_bytes(data)
        process = FORK.Process(target=steps_of, args=(folder, step))
        process.start()
        process.join(60)
        if process.exitcode == 0:
            break
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        publishing = (folder / FOLDER / "finished.json").exists()
        assert publishing or files in (before, whole)
        refused = ""
        try:
            write(folder, quiet=True)
        except ShardError as error:
            refused = str(error)
        # The run is refused if the first one was killed before it wrote its fingerprint, or after it had finished.
        assert "already contains a finished split" in refused or not refused
        assert contents(folder) in ((before, whole) if refused else (whole,))
    assert 40 < step < 99


@pytest.fixture
def overwriting_cut_short(tmp_path, monkeypatch) -> Path:
    """The folder of an older split, with a run that was to replace it and was killed in the middle."""
    write(tmp_path / "train", seed=1, quiet=True)
    monkeypatch.setenv("KILL_AT", "5")
    monkeypatch.setenv("KILL_WHOM", "self")
    assert write_in_a_process(tmp_path / "train", overwrite=True) == -signal.SIGKILL
    monkeypatch.setenv("KILL_AT", "")
    return tmp_path / "train"


def test_older_split_stays_readable_until_the_new_one_is_complete(overwriting_cut_short, tmp_path):
    write(tmp_path / "elsewhere" / "older", seed=1, quiet=True)
    files = {path.name: path.read_bytes() for path in overwriting_cut_short.iterdir() if path.is_file()}
    assert files == contents(tmp_path / "elsewhere" / "older")
    assert verify(overwriting_cut_short, quiet=True) == []


def test_interrupted_overwriting_continues_without_the_option(overwriting_cut_short, whole, capsys):
    write(overwriting_cut_short)
    assert "continuing" in capsys.readouterr().err
    assert contents(overwriting_cut_short) == whole


def test_concurrent_run_is_refused_and_changes_nothing(cut_short, whole):
    with open_unfinished(cut_short):
        before = contents(cut_short / FOLDER)
        with pytest.raises(ShardError, match="train is being written by another run: wait for it or stop it"):
            write(cut_short, quiet=True)
        assert contents(cut_short / FOLDER) == before
    write(cut_short, quiet=True)
    assert contents(cut_short) == whole


def test_finished_splits_of_an_interrupted_run_are_kept(tmp_path):
    importer = find_importer("phantom")(None, Options(size=16, counts={"train": 3, "val": 2, "test": 2}))
    sources = importer.splits()
    assert list(unwritten(importer, sources, tmp_path)) == ["train", "val", "test"]
    write_split(importer, "train", sources["train"], tmp_path / "train", quiet=True)
    assert list(unwritten(importer, sources, tmp_path)) == ["val", "test"]
    other = find_importer("phantom")(None, Options(size=32, counts={"train": 3, "val": 2, "test": 2}))
    with pytest.raises(ShardError, match="train already contains a finished split"):
        unwritten(other, other.splits(), tmp_path)
    for name in ("val", "test"):
        write_split(importer, name, sources[name], tmp_path / name, quiet=True)
    with pytest.raises(ShardError, match="train already contains a finished split"):
        unwritten(importer, sources, tmp_path)


def test_manifest_of_a_continued_run_is_correct(cut_short, whole):
    manifest = write(cut_short, quiet=True)
    assert json.loads(whole["manifest.json"]) == json.loads(manifest.model_dump_json())
    assert verify(cut_short, quiet=True) == []
