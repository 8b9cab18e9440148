"""Tests of reading regular files, in ranges that may be larger than one call of the system reads."""

import os

import pytest

from uml_shards.files import open_regular, read_into, read_range, read_regular

DATA = bytes(range(250))


@pytest.fixture
def descriptor(tmp_path, monkeypatch):
    """An open file of 250 bytes, of which the system reads at most 100 at once."""
    (tmp_path / "a").write_bytes(DATA)
    pread, preadv = os.pread, os.preadv
    monkeypatch.setattr(os, "pread", lambda file, size, at: pread(file, min(size, 100), at))
    monkeypatch.setattr(os, "preadv", lambda file, buffers, at: preadv(file, [buffers[0][:100]], at))
    opened = open_regular(tmp_path / "a")
    yield opened
    os.close(opened)


@pytest.mark.parametrize(("size", "offset"), [(250, 0), (201, 49), (99, 3), (100, 100), (0, 7), (500, 30), (5, 900)])
def test_a_range_is_read_whole_or_to_the_end_of_the_file(descriptor, size, offset):
    assert read_range(descriptor, size, offset) == DATA[offset : offset + size]
    buffer = bytearray(size)
    count = read_into(descriptor, memoryview(buffer), offset)
    assert bytes(buffer[:count]) == DATA[offset : offset + size]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/null")])
def test_only_regular_files_are_opened(tmp_path, make):
    make(tmp_path / "a")
    with pytest.raises(OSError, match="it is not a regular file"):
        open_regular(tmp_path / "a")


def test_a_file_of_more_bytes_than_allowed_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(DATA)
    assert read_regular(tmp_path / "a", 250) == DATA
    with pytest.raises(OSError, match="it has more than 249 bytes"):
        read_regular(tmp_path / "a", 249)
