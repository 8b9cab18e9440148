"""Checkpoints under faults: killed writers, full disks, flipped bytes; a run always has a whole one to go on from."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from checkpoints import networks_of, one_line, save, state_of
from uml_dist.config.schema import CheckpointConfig
from uml_dist.errors import UmlError
from uml_dist.run import checkpoint as checkpoint_module
from uml_dist.run.background import Saver
from uml_dist.run.checkpoint import latest_valid, read_networks, read_state, save_checkpoint, verify
from uml_dist.run.checkpoint_folder import find_checkpoint, point, prune
from uml_dist.run.folder import RunFolder
from uml_dist.run.network_state import NetworkState
from uml_dist.run.tensor_file import tensor_file

pytestmark = pytest.mark.fault

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
KILLED, REFUSED, REMAINS = 9, 2, 3  # REMAINS: something could not be removed, and is left for the next save


def interrupt_at(number: int, act: Callable[[], object]) -> list[str]:
    """Act before the n-th change of a file of this process from now on; the changes so far."""
    changes: list[str] = []

    def change(name: str) -> None:
        changes.append(name)
        if len(changes) == number:
            act()

    def watch(event: str, arguments: tuple) -> None:
        if event in CHANGES or (event == "open" and arguments[1] == "w"):
            change(event)

    def counted(name: str, function: Callable) -> Callable:
        def call(*arguments):
            change(name)
            return function(*arguments)

        return call

    def pieces(tensors: dict) -> Iterator[bytes | memoryview]:
        header, *rest = tensor_file(tensors)
        yield header
        change("in the middle of a file")
        yield from rest

    sys.addaudithook(watch)
    os.fsync = counted("fsync", os.fsync)
    checkpoint_module.tensor_file = pieces
    return changes


def in_a_child(work: Callable[[], object]) -> int:
    """The exit code of a forked process that does some work: it may change what it likes of its own."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        work()
    except BaseException as error:
        os.write(2, f"{error}\n".encode())
        os._exit(1)
    os._exit(0)


def die() -> None:
    os._exit(KILLED)


def fail() -> None:
    raise OSError(28, "No space left on device")


def save_and_prune(run: Path, step: int, seed: int) -> None:
    """What the trainer does: the older of two checkpoints goes."""
    saved = save(run, step, seed)
    point(run / "checkpoints" / "best", saved.name)
    prune(run / "checkpoints", keep=1)


def seed_of(checkpoint: Path) -> int:
    """Which of the networks of this file a checkpoint holds."""
    verify(checkpoint)
    weights = read_networks(checkpoint)["student"].weights["head.bias"]
    return next(seed for seed in (1, 2, 3) if torch.equal(networks_of(seed)["student"].weights["head.bias"], weights))


@pytest.fixture
def older(tmp_path) -> Path:
    """A run with one checkpoint, of seed 1 at step 5."""
    save(tmp_path / "older", step=5, seed=1)
    return tmp_path / "older"


@pytest.mark.parametrize("step", [6, 5], ids=["the next step", "the same step again"])
def test_killed_before_any_change_of_a_file_the_older_or_the_new_one_is_whole(older, tmp_path, step):
    taken = []
    for number in range(1, 100):
        run = Path(shutil.copytree(older, tmp_path / str(number)))

        def work(run=run, number=number):
            interrupt_at(number, die)
            save_and_prune(run, step, seed=2)

        code = in_a_child(work)
        found = latest_valid(run / "checkpoints")
        assert found is not None
        taken.append(seed_of(found[0]))
        assert find_checkpoint(run) == found[0]  # also for those who only read, and without a word
        assert found[1] is None
        # The next save removes what is left over, and nothing else.
        save_and_prune(run, step=7, seed=3)
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best", "latest", "step-000007"]
        if code == 0:
            break
        assert code == KILLED
    assert number > 25
    assert taken == sorted(taken)
    assert set(taken) == {1, 2}


@pytest.mark.parametrize("step", [6, 5], ids=["the next step", "the same step again"])
def test_an_error_at_any_change_of_a_file_is_one_line_and_loses_nothing(older, tmp_path, step):
    for number in range(1, 100):
        run = Path(shutil.copytree(older, tmp_path / str(number)))

        def work(run=run, number=number):
            changes = interrupt_at(number, fail)
            try:
                save(run, step, seed=2)
            except UmlError as error:
                message = str(error)
                expected = "No space left on device: make room or fix the disk, then resume with --run"
                os._exit(REFUSED if f"cannot be written: {expected} {run}" in message and "\n" not in message else 1)
            os._exit(REMAINS if len(changes) >= number else 0)

        code = in_a_child(work)
        found = latest_valid(run / "checkpoints")
        assert found is not None
        assert seed_of(found[0]) in (1, 2)
        if code == 0:
            break
        assert code in (REFUSED, REMAINS)
        save_and_prune(run, step=7, seed=3)
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best", "latest", "step-000007"]
    assert number > 15


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_the_older_checkpoint_stays(small_disk):
    first = save(small_disk)
    large = {"student": NetworkState({"weight": torch.zeros(500_000)})}
    with pytest.raises(
        UmlError, match=r"step-000006 cannot be written: .*No space left on device.*: make room"
    ) as raised:
        save_checkpoint(small_disk / "checkpoints", large, state_of(6))
    one_line(raised)
    assert latest_valid(small_disk / "checkpoints") == (first, None)
    assert save(small_disk, step=7).name == "step-000007"  # what was written of the large one is gone


@pytest.mark.parametrize("in_background", [False, True])
def test_a_read_only_disk_is_one_line_and_the_older_checkpoint_stays(small_disk, in_background):
    first = save(small_disk)
    saver = Saver(
        RunFolder(small_disk, writes=True), CheckpointConfig(background=in_background), lambda saved: None, print
    )
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        saver.save(networks_of(), state_of(6))
        saver.wait()
        assert latest_valid(small_disk / "checkpoints") == (first, None)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert saver.problem is not None
    assert "step-000006 cannot be written: Read-only file system: make room or fix the disk" in saver.problem
    assert "\n" not in saver.problem
    assert save(small_disk, step=7).name == "step-000007"


def test_all_is_on_the_disk_before_a_name_leads_to_it(tmp_path, monkeypatch):
    events: list[tuple[str, str]] = []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace

    def watched(name, function):
        def call(self, target):
            events.append((name, f"{self.name} -> {Path(target).name}"))
            return function(self, target)

        return call

    def synced(descriptor):
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    monkeypatch.setattr("secrets.token_hex", lambda _: "0123")
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", watched("rename", rename))
    monkeypatch.setattr(Path, "replace", watched("rename", replace))
    saved = save(tmp_path, step=6)
    whole = events.index(("rename", ".step-000006.tmp -> step-000006"))
    assert {name for _, name in events[: whole - 1]} == {path.name for path in saved.iterdir()}
    assert events[whole - 1 :] == [
        ("sync", ".step-000006.tmp"),
        ("rename", ".step-000006.tmp -> step-000006"),
        ("sync", "checkpoints"),
        ("sync", ".latest.0123.tmp"),
        ("rename", ".latest.0123.tmp -> latest"),
        ("sync", "checkpoints"),
    ]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "byte": (lambda run: flip(run / "checkpoints/step-000007/student.safetensors"), "student.safetensors is missing"),
    "missing": (lambda run: (run / "checkpoints/step-000007/teacher.safetensors").unlink(), "teacher.safetensors is"),
    "cut": (lambda run: os.truncate(run / "checkpoints/step-000007/student.optimizer.safetensors", 9), "is missing or"),
    "list": (lambda run: (run / "checkpoints/step-000007/MANIFEST.json").write_text("{"), "no readable MANIFEST.json"),
    "bytes": (lambda run: (run / "checkpoints/step-000007/MANIFEST.json").write_bytes(b"\xff"), "no readable MANIFEST"),
    "state": (lambda run: (run / "checkpoints/step-000007/state.json").write_text("{}"), "state.json is missing or"),
    "extra": (lambda run: (run / "checkpoints/step-000007/more.safetensors").touch(), "more.safetensors is missing or"),
    "gone": (
        lambda run: shutil.rmtree(run / "checkpoints/step-000007"),
        "latest names step-000007, which does not exist",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_newest_whole_one_before_a_damaged_one_is_taken(tmp_path, damage):
    for step in (5, 6, 7):
        save(tmp_path, step)
    spoil, words = DAMAGE[damage]
    spoil(tmp_path)
    flip(tmp_path / "checkpoints" / "step-000006" / "state.json")
    found = latest_valid(tmp_path / "checkpoints")
    assert found is not None
    assert found[0].name == "step-000005"
    assert found[1] is not None
    assert words in found[1]
    assert "step-000006: state.json is missing or damaged: resuming from step-000005, which is valid" in found[1]
    assert "\n" not in found[1]


@pytest.mark.parametrize(
    "content",
    [
        b"step-000001",
        b"step-" + b"9" * 300,
        b"step-" + b"9" * 9000,
        b"",
        b"rubbish",
        b"\xff\xfe",
        b"../step-000005",
        b"/etc",
        b".",
        b"step-000005/..",
        None,
    ],
)
def test_a_pointer_to_no_checkpoint_of_its_folder_is_none(tmp_path, content):
    for step in (5, 6):
        save(tmp_path, step)
    save(tmp_path / "checkpoints" / "elsewhere")
    pointer = tmp_path / "checkpoints" / "latest"
    pointer.unlink()
    if content is not None:
        pointer.write_bytes(content)
        if content != b"step-000001":  # which is a name, but of no checkpoint here
            with pytest.raises(UmlError, match=r"latest does not name a checkpoint: use another checkpoint"):
                find_checkpoint(tmp_path)
    found = latest_valid(tmp_path / "checkpoints")
    assert found is not None
    assert found[0].name == "step-000006"
    assert found[1] is not None
    assert f"pointer {pointer} " in found[1]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_a_pointer_that_is_not_a_file_is_passed_over_without_waiting(tmp_path, make):
    saved = save(tmp_path, 5)
    pointer = tmp_path / "checkpoints" / "latest"
    pointer.unlink()
    make(pointer)
    found = latest_valid(tmp_path / "checkpoints")
    assert found is not None
    assert found[0] == saved
    assert f"pointer {pointer} is not a file: resuming from" in str(found[1])


def test_checkpoints_beyond_the_latest_are_not_gone_on_from(tmp_path):
    """Someone wrote an older name into `latest`, or the writer was killed before it turned it."""
    for step in (5, 6):
        save(tmp_path, step)
    point(tmp_path / "checkpoints" / "latest", "step-000005")
    assert latest_valid(tmp_path / "checkpoints") == (tmp_path / "checkpoints" / "step-000005", None)


def test_pruning_does_not_count_what_a_run_has_gone_back_from(tmp_path):
    folder = tmp_path / "checkpoints"
    for step in (2, 4, 8):
        save(tmp_path, step)
    flip(folder / "step-000008" / "state.json")
    save(tmp_path, 5)  # after going back to step 4
    prune(folder, keep=2)
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-000004", "step-000005", "step-000008"]
    assert latest_valid(folder) == (folder / "step-000005", None)


def test_one_of_another_format_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch):
    save(tmp_path, 5)
    monkeypatch.setattr(checkpoint_module, "FORMAT", 2)
    save(tmp_path, 6)
    monkeypatch.undo()
    with pytest.raises(UmlError, match="step-000006 does not have format 1"):
        latest_valid(tmp_path / "checkpoints")


def test_no_whole_one_is_one_line_and_none_at_all_is_a_fresh_start(tmp_path):
    assert latest_valid(tmp_path / "checkpoints") is None
    (tmp_path / "checkpoints" / ".step-000005.tmp").mkdir(parents=True)
    assert latest_valid(tmp_path / "checkpoints") is None
    for step in (5, 6):
        flip(save(tmp_path, step) / "state.json")
    with pytest.raises(
        UmlError, match=r"step-000006: .*; .*step-000005: .*: no checkpoint is valid: copy one"
    ) as raised:
        latest_valid(tmp_path / "checkpoints")
    one_line(raised)
    assert read_state(save(tmp_path, 7)).step == 7
