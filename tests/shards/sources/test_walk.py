"""Tests of listing the files of a folder through links."""

import os

import pytest

from uml_shards import ShardError
from uml_shards.sources.walk import walk_files


def test_files_behind_links_are_listed_once_for_each_path(tmp_path):
    far, near = tmp_path / "far", tmp_path / "near"
    (far / "deep").mkdir(parents=True)
    near.mkdir()
    (far / "deep" / "a.png").write_bytes(b"a")
    (far / "b.png").write_bytes(b"b")
    (near / "folder").symlink_to(far)
    (near / "file.png").symlink_to(far / "b.png")
    (near / "folder again").symlink_to(far, target_is_directory=True)
    found = walk_files(near)
    assert found == sorted(found)
    assert {path.relative_to(near).as_posix() for path in found} == {
        *("file.png", "folder/b.png", "folder/deep/a.png"),
        *("folder again/b.png", "folder again/deep/a.png"),
    }


def test_hidden_folders_are_listed_but_not_entered(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.png").write_bytes(b"")
    assert walk_files(tmp_path) == [tmp_path / ".git"]


def loop(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "back").symlink_to(folder)


def broken_link(folder):
    (folder / "gone.png").symlink_to(folder / "nothing")


def link_to_itself(folder):
    (folder / "self.png").symlink_to(folder / "self.png")


def pipe(folder):
    os.mkfifo(folder / "pipe.png")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (loop, "back is a link to a folder that contains it: remove the link"),
        (broken_link, r"gone\.png is a link that leads nowhere: restore its target, or remove it"),
        (link_to_itself, r"self\.png is a link that leads nowhere"),
        (pipe, r"pipe\.png is neither a file nor a folder: remove it"),
    ],
)
def test_entries_that_cannot_be_files_are_refused(tmp_path, spoil, reason):
    spoil(tmp_path)
    with pytest.raises(ShardError, match=reason):
        walk_files(tmp_path)
