"""Free space on disks, and write access to folders."""

from pathlib import Path

import pytest

from uml_dist.doctor.folders import (
    check_cache,
    check_disk,
    check_kernel_cache,
    check_run_folder,
    kernel_cache,
    lock_file,
    nearest_existing,
    write_file,
)


def refuse(folder):
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(("free", "state"), [(50e9, "ok"), (9e9, "note"), (0.9e9, "problem")])
def test_little_free_space_is_a_note_and_less_a_problem(free, state, tmp_path):
    asked = []

    def read(folder):
        asked.append(folder)
        return free

    found = check_disk("runs", tmp_path / "runs" / "isic", read)
    assert (found.name, found.state) == ("disk of runs", state)
    assert asked == [tmp_path]  # where the folder would be created


def test_free_space_of_a_real_disk_is_read(tmp_path):
    assert "GB free at" in check_disk("runs", tmp_path).message


def test_writing_and_locking_leave_nothing_behind(tmp_path):
    write_file(tmp_path)
    lock_file(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_run_folder_is_tested_where_it_is_or_would_be_created(tmp_path):
    written = []
    found = check_run_folder(tmp_path / "a" / "b", written.append)
    assert (found.state, written) == ("ok", [tmp_path])
    assert "will be created" in found.message
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert check_run_folder(tmp_path / "a" / "b").message == f"{tmp_path / 'a' / 'b'} can be written"
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_unwritable_run_folder_is_a_problem(tmp_path):
    found = check_run_folder(tmp_path, refuse)
    assert (found.state, "cannot be written: Permission denied" in found.message) == ("problem", True)
    if Path("/proc/self").exists():
        assert check_run_folder(Path("/proc/runs")).state == "problem"


def test_file_or_dangling_link_is_not_a_run_folder(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name in ("file", "file/inside", "link", "link/inside"):
        found = check_run_folder(tmp_path / name)
        assert (found.state, "is not a folder" in found.message) == ("problem", True), name


def test_nearest_folder_of_a_relative_path_is_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert nearest_existing(Path("runs")) == tmp_path


def test_unusable_cache_is_only_a_note(tmp_path):
    assert check_cache(tmp_path / "cache").state == "ok"
    assert "cannot be written" in check_cache(tmp_path, refuse).message
    assert "cannot be locked" in check_cache(tmp_path, lock=refuse).message
    (tmp_path / "file").touch()
    assert "is not a folder" in check_cache(tmp_path / "file").message
    assert {check_cache(tmp_path, refuse).state, check_cache(tmp_path, lock=refuse).state} == {"note"}


def test_unwritable_kernel_cache_is_a_problem_only_with_a_gpu(tmp_path):
    assert kernel_cache({"TRITON_CACHE_DIR": str(tmp_path)}) == tmp_path
    assert kernel_cache({"TRITON_HOME": str(tmp_path)}) == tmp_path / ".triton" / "cache"
    assert kernel_cache({}) == Path.home() / ".triton" / "cache"
    assert check_kernel_cache(1, tmp_path / "kernels").state == "ok"
    assert check_kernel_cache(1, tmp_path, refuse).state == "problem"
    assert check_kernel_cache(0, tmp_path, refuse).state == "note"
