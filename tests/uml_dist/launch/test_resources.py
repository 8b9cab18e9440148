"""Shared memory is measured, and the limit of open files raised."""

import resource

import pytest

from uml_dist.launch.resources import raise_open_files, read_open_files, read_space


def test_size_is_read_if_the_folder_exists(tmp_path):
    space = read_space(tmp_path)
    assert space is not None
    assert 0 < space.free <= space.total
    assert read_space(tmp_path / "nowhere") is None


def test_the_soft_limit_of_open_files_becomes_the_hard_one():
    soft, hard = before = read_open_files()
    if hard < 0:
        pytest.skip("no hard limit here")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 100), hard))
        raise_open_files()
        assert read_open_files() == (hard, hard)
        raise_open_files()
        assert read_open_files() == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
