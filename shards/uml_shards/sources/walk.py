"""List the files of a folder, through links, and leave none out silently."""

import os
import stat
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
        entries = [Path(entry.path) for entry in os.scandir(folder)]
    except OSError as error:
        raise ShardError(f"folder {folder} cannot be read: {error.strerror}") from None
    # Device and inode identify a folder however it is reached.
    place = (found.st_dev, found.st_ino)
    if place in above:
        raise ShardError(f"{folder} is a link to a folder that contains it: remove the link")
    for entry in entries:
        try:
            mode = entry.stat().st_mode
        except OSError as error:
            problem = "leads nowhere: restore its target, or remove it" if entry.is_symlink() else error.strerror
            raise ShardError(
                f"{entry} {'is a link that' if entry.is_symlink() else 'cannot be read:'} {problem}"
            ) from None
        if stat.S_ISDIR(mode) and not entry.name.startswith("."):
            yield from _files(entry, (*above, place))
        elif stat.S_ISDIR(mode) or stat.S_ISREG(mode):
            yield entry
        else:
            raise ShardError(f"{entry} is neither a file nor a folder: remove it")
