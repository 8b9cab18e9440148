"""Room in shared memory, and files that dead runs have left in it."""

import mmap
import os
import time
from pathlib import Path

import pytest

from uml_dist.doctor.shared_memory import Space, check_leftovers, check_space, find_leftovers, read_space

LATER = time.time() + 3600


@pytest.fixture
def memory(tmp_path) -> Path:
    """A folder like /dev/shm with two files of ours and a stranger's."""
    folder = tmp_path / "shm"
    folder.mkdir()
    for name in ("torch_12_34_0", "sem.mp-abc", "database"):
        (folder / name).write_bytes(bytes(2**20))
    return folder


@pytest.fixture
def processes(tmp_path) -> Path:
    """A /proc with one process."""
    (tmp_path / "proc" / "12" / "fd").mkdir(parents=True)
    (tmp_path / "proc" / "12" / "maps").write_text("")
    (tmp_path / "proc" / "meminfo").write_text("")
    return tmp_path / "proc"


@pytest.mark.parametrize(
    ("space", "gpus", "state"),
    [
        (Space(24 * 2**30, 20 * 2**30), 2, "ok"),
        (Space(64 * 2**20, 64 * 2**20), 2, "problem"),
        (Space(64 * 2**20, 64 * 2**20), 0, "note"),
        (None, 2, "note"),
    ],
)
def test_readers_beside_gpus_need_room(space, gpus, state):
    assert check_space(space, gpus).state == state


def test_a_small_and_a_full_shared_memory_have_different_remedies():
    assert "--shm-size" in check_space(Space(64 * 2**20, 64 * 2**20), 1).todo
    assert "make room" in check_space(Space(24 * 2**30, 2**20), 1).todo


def test_room_is_read_where_there_is_such_a_folder(tmp_path):
    space = read_space(tmp_path)
    assert space is not None
    assert 0 < space.free <= space.total
    assert read_space(tmp_path / "nowhere") is None


def test_files_of_ours_that_nobody_maps_are_left_over(memory, processes):
    found = find_leftovers(memory, processes, LATER)
    assert [path.name for path in found] == ["sem.mp-abc", "torch_12_34_0"]
    assert sum(found.values()) >= 2 * 2**20
    assert len(list(memory.iterdir())) == 3  # nothing is removed


def test_files_that_a_process_maps_or_holds_open_are_in_use(memory, processes):
    mapped = f"7f00-7f10 rw-s 00000000 00:1a 77    {memory / 'torch_12_34_0'}\n7f20-7f30 rw-p 0 00:00 0\n"
    (processes / "12" / "maps").write_text(mapped)
    assert [path.name for path in find_leftovers(memory, processes, LATER)] == ["sem.mp-abc"]
    (processes / "12" / "fd" / "3").symlink_to(memory / "sem.mp-abc")
    assert find_leftovers(memory, processes, LATER) == {}


def test_young_files_are_left_out(memory, processes):
    assert find_leftovers(memory, processes, time.time()) == {}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc here")
def test_a_file_that_this_process_maps_is_seen_in_the_real_proc(memory):
    path = memory / "torch_12_34_0"
    with path.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
    with mapping:
        assert [one.name for one in find_leftovers(memory, now=LATER)] == ["sem.mp-abc"]
    assert path in find_leftovers(memory, now=LATER)


def test_leftovers_are_named_with_their_size_and_quoted():
    assert check_leftovers({}).state == "ok"
    files = {Path(f"/dev/shm/torch_{number}"): 66 * 2**20 for number in range(8)}
    found = check_leftovers(files)
    assert found.state == "note"
    assert found.says.startswith("8 files of yours, 528 MiB")
    assert found.todo.endswith("rm " + " ".join(f"/dev/shm/torch_{number}" for number in range(6)) + " and 2 more")
    assert "'/dev/shm/torch_a b'" in check_leftovers({Path("/dev/shm/torch_a b"): 1}).todo


def test_only_files_of_this_user_count(memory, processes, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 4242424)
    assert find_leftovers(memory, processes, LATER) == {}
