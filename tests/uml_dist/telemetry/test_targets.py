"""Files of targets: read by Prometheus, kept while their run lives, and removed when it was killed."""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forked import forked
from uml_dist.telemetry.process import LEASE_SECONDS
from uml_dist.telemetry.targets import Target, TargetsFile, current_targets, main, sweep, targets_folder

HOSTILE = 'a"b\n# TYPE x counter\n../<script>\\'


def target(run: str = "isic", rank: int = 0, **words) -> Target:
    return Target(f"127.0.0.1:{9464 + rank}", run, "gpu1", rank, id="4e1f", folder=f"/data/runs/{run}", **words)


@pytest.fixture
def publish(tmp_path) -> Iterator[Callable[..., TargetsFile]]:
    """Return a function that writes targets into the folder of this test."""
    files = []

    def write(*targets: Target, key: str = "key", seconds: float = 1000.0) -> TargetsFile:
        files.append(TargetsFile(tmp_path, targets, key, seconds))
        return files[-1]

    yield write
    for file in files:
        file.remove()


def test_a_file_is_one_of_file_sd(publish):
    file = publish(target(), target(rank=1, attempt=3, scheme="https"))
    groups = json.loads(file.path.read_text())
    assert [group["targets"] for group in groups] == [["127.0.0.1:9464"], ["127.0.0.1:9465"]]
    labels = groups[1]["labels"]
    shown = {name: value for name, value in labels.items() if not name.startswith("__")}
    assert shown == {"run": "isic", "node": "gpu1", "rank": "1", "attempt": "3"}
    assert (labels["__scheme__"], labels["__param_id"]) == ("https", "4e1f")
    assert all(isinstance(value, str) for group in groups for value in group["labels"].values())


def test_the_targets_of_two_runs_are_listed_and_removed_one_by_one(publish, tmp_path):
    first = publish(target("b", rank=1), target("b"), key="1")
    second = publish(target("a", loopback=False), key="2")
    assert current_targets(tmp_path) == [target("a", loopback=False), target("b"), target("b", rank=1)]
    first.remove()
    first.remove()
    assert current_targets(tmp_path) == [target("a", loopback=False)]
    assert sweep(tmp_path) == []
    second.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("run", [HOSTILE, "", "肺", "x" * 5000])
def test_a_hostile_name_is_a_label_and_stays_in_the_folder(publish, tmp_path, run):
    file = publish(target(run))
    assert (file.path.parent, list(tmp_path.iterdir())) == (tmp_path, [file.path])
    assert [one.run for one in current_targets(tmp_path)] == [run]


def killed(folder: Path) -> Path:
    """Publish targets in another process, and kill it; return the file."""
    with forked(lambda: str(TargetsFile(folder, [target("killed")], "killed").path)) as (_, path):
        assert sweep(folder) == []
        assert "killed" in [one.run for one in current_targets(folder)]
    assert Path(path).exists()
    return Path(path)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_file_of_a_killed_run_is_listed_no_more_and_removed_by_the_next_run(publish, tmp_path, capsys):
    path = killed(tmp_path)
    assert current_targets(tmp_path) == []
    file = publish(target())
    assert list(tmp_path.iterdir()) == [file.path]
    again = killed(tmp_path)
    assert again == path
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"removed {path}: its run was killed\n1 targets in {tmp_path}" in printed
    assert "http://127.0.0.1:9464/metrics  run isic, attempt 1, rank 0 on gpu1" in printed


def move_to_another_machine(path: Path) -> None:
    groups = json.loads(path.read_text())
    for group in groups:
        group["labels"] |= {"__meta_uml_machine": "another", "__meta_uml_number": "1", "__meta_uml_began": "1"}
    path.write_text(json.dumps(groups))


def test_a_file_of_another_machine_is_stale_when_it_has_not_been_touched_for_long(publish, tmp_path):
    path = publish(target()).path
    move_to_another_machine(path)
    now = path.stat().st_mtime
    os.utime(path, (now, now - LEASE_SECONDS + 60))
    assert sweep(tmp_path) == []
    assert current_targets(tmp_path) == [target()]
    os.utime(path, (now, now - LEASE_SECONDS - 60))
    assert current_targets(tmp_path) == []
    assert sweep(tmp_path) == [path]


def test_a_clock_that_is_set_neither_removes_nor_keeps_a_file(publish, tmp_path, monkeypatch):
    publish(target("here"), key="1")
    move_to_another_machine(publish(target("there"), key="2").path)
    real = time.time
    for hours in (-5, 5):
        monkeypatch.setattr(time, "time", lambda hours=hours: real() + 3600 * hours)
        assert sweep(tmp_path) == []


def test_files_of_others_are_left_alone(publish, tmp_path):
    for name, text in {
        "mine.json": '[{"targets": ["a:1"], "labels": {"run": "x"}}]',
        "mine-0123456789ab.json": '[{"targets": ["a:1"]}]',
        "broken-0123456789ab.json": "[{",
        "deep-0123456789ab.json": "[" * 100_000,
        "notes.tmp": "",
    }.items():
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, (0, 0))
    assert (sweep(tmp_path), current_targets(tmp_path), len(list(tmp_path.iterdir()))) == ([], [], 5)


def test_what_a_killed_writer_left_unfinished_is_removed_later(publish, tmp_path):
    path = publish(target()).path
    unfinished = tmp_path / f".{path.name}.0123abcd.tmp"
    unfinished.touch()
    assert sweep(tmp_path) == []
    os.utime(unfinished, (0, 0))
    assert sweep(tmp_path) == [unfinished]


def test_a_run_that_lives_writes_its_file_again(publish, tmp_path):
    path = publish(target(), seconds=0.02).path
    path.unlink()
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert current_targets(tmp_path) == [target()]


def test_the_file_of_a_later_start_stays_when_an_earlier_one_ends(publish, tmp_path):
    first = publish(target())
    second = publish(target(attempt=2))
    assert first.path == second.path
    first.remove()
    assert current_targets(tmp_path) == [target(attempt=2)]


def test_a_folder_that_cannot_be_made_is_one_warning(tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        file = TargetsFile(tmp_path / "file" / "targets", [target()], "key", seconds=0.01)
        time.sleep(0.1)
        file.remove()
    assert [entry.getMessage().partition(":")[0] for entry in caplog.records] == ["Prometheus cannot discover this run"]


def test_the_folder_is_that_of_the_setting_of_the_state_or_of_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    home = tmp_path / ".local" / "state" / "uml-dist" / "targets"
    assert targets_folder(None, {}) == home
    assert targets_folder(None, {"XDG_STATE_HOME": "relative"}) == home
    assert targets_folder(None, {"XDG_STATE_HOME": "/state"}) == Path("/state/uml-dist/targets")
    assert targets_folder("~/t") == tmp_path / "t"
    assert targets_folder("") is None
    assert (current_targets(tmp_path / "missing"), sweep(tmp_path / "missing")) == ([], [])
