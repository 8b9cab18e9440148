"""Free shared memory, and files that dead runs left in it."""

import mmap
import os
import time
from pathlib import Path

import pytest

from uml_dist.doctor.shared_memory import check_leftovers, check_space, find_leftovers
from uml_dist.launch.resources import Space

LATER = time.time() + 3600


@pytest.fixture
def memory(tmp_path) -> Path:
    """A folder like /dev/shm with two files of ours and one of another program."""
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
def test_little_shared_memory_is_a_problem_only_with_gpus(space, gpus, state):
    assert check_space(space, gpus).state == state


def test_small_and_full_shared_memory_have_different_remedies():
    assert "--shm-size" in check_space(Space(64 * 2**20, 64 * 2**20), 1).remedy
    assert "free space" in check_space(Space(24 * 2**30, 2**20), 1).remedy


def test_unused_files_of_ours_are_leftovers(memory, processes):
    found = find_leftovers(memory, processes, LATER)
    assert [path.name for path in found] == ["sem.mp-abc", "torch_12_34_0"]
    assert sum(found.values()) >= 2 * 2**20
    assert len(list(memory.iterdir())) == 3  # nothing is removed


def test_files_mapped_or_open_in_a_process_are_in_use(memory, processes):
    mapped = f"7f00-7f10 rw-s 00000000 00:1a 77    {memory / 'torch_12_34_0'}\n7f20-7f30 rw-p 0 00:00 0\n"
    (processes / "12" / "maps").write_text(mapped)
    assert [path.name for path in find_leftovers(memory, processes, LATER)] == ["sem.mp-abc"]
    (processes / "12" / "fd" / "3").symlink_to(memory / "sem.mp-abc")
    assert find_leftovers(memory, processes, LATER) == {}


def test_new_files_are_left_out(memory, processes):
    assert find_leftovers(memory, processes, time.time()) == {}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc here")
def test_file_mapped_by_this_process_is_found_in_the_real_proc(memory):
    path = memory / "torch_12_34_0"
    with path.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
    with mapping:
        assert [one.name for one in find_leftovers(memory, now=LATER)] == ["sem.mp-abc"]
    assert path in find_leftovers(memory, now=LATER)


def test_leftovers_are_listed_quoted_and_with_their_size():
    assert check_leftovers({}).state == "ok"
    files = {Path(f"/dev/shm/torch_{number}"): 66 * 2**20 for number in range(8)}
    found = check_leftovers(files)
    assert found.state == "note"
    assert found.message.startswith("8 files of yours, 528 MiB")
    assert found.remedy.endswith("rm " + " ".join(f"/dev/shm/torch_{number}" for number in range(6)) + " and 2 more")
    assert "'/dev/shm/torch_a b'" in check_leftovers({Path("/dev/shm/torch_a b"): 1}).remedy


def test_files_of_other_users_are_ignored(memory, processes, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 4242424)
    assert find_leftovers(memory, processes, LATER) == {}
