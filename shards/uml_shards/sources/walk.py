"""List the files of a folder, through links, and leave none out silently."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from ..errors import ShardError


def walk_files(folder: Path) -> list[Path]:
    """Return all files in a folder and its subfolders, sorted by path. Links to files and to folders are followed.

    Hidden files are included, but hidden folders are not entered: they are returned like files.

    Raises:
        ShardError: a folder cannot be listed or contains itself by a link, a link leads nowhere, or an entry is neither
            a file nor a folder, such as a named pipe.
    """
    return sorted(_files(folder, ()))


def is_hidden(name: PurePath) -> bool:
    """Whether a file, or a folder in its relative path, is hidden."""
    return any(part.startswith(".") for part in name.parts)


def _files(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    try:
        found = folder.stat()
        entries = list(os.scandir(folder))
    except OSError as error:
        raise ShardError(f"folder {folder} cannot be read: {error.strerror}") from None
    # Device and inode identify a folder however it is reached.
    place = (found.st_dev, found.st_ino)
    if place in above:
        raise ShardError(f"{folder} is a link to a folder that contains it: remove the link")
    for entry in entries:
        kind, path = _kind(entry), Path(entry.path)
        if kind == "folder" and not entry.name.startswith("."):
            yield from _files(path, (*above, place))
        elif kind:
            yield path
        elif entry.is_symlink():
            raise ShardError(f"{path} is a link that leads nowhere: restore its target, or remove it")
        else:
            raise ShardError(f"{path} is neither a file nor a folder: remove it")


def _kind(entry: os.DirEntry[str]) -> str:
    """Return "folder", "file", or "" for anything else. Only links cost a call of the system."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else ""
    except OSError:  # such as a link to itself
        return ""
