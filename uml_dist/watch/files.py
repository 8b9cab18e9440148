"""Reads files of run folders, and only those: no link leads out of them, and no pipe is waited for."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

MAX_RUNS = 500
"""Most runs of a folder that are shown."""

MAX_FOLDERS = 20_000
"""Most folders that are looked at in search of runs."""

MAX_LEVELS = 4
"""Deepest level of a run below the folder of runs, such as bench/quality/uml/seed0."""

MARKS = ("config.toml", "status.json", "metrics.jsonl")
"""Files by which a run folder is recognised."""


@contextmanager
def opened(folder: Path, *names: str) -> Iterator[BinaryIO]:
    """Open a file of a folder for reading, without following links inside the folder.

    Args:
        folder: the folder.
        names: the folders below it that lead to the file, and the file's name.

    Raises:
        OSError: it cannot be read, is not a regular file, or a link is in the way.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        for name in names:
            if not name or name in (".", "..") or "/" in name or "\0" in name:
                raise FileNotFoundError(f"{name!r} is not the name of a file")
            inner = os.open(name, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileNotFoundError(f"{names[-1]!r} is not a regular file")
    except BaseException:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as stream:
        yield stream


def read_bytes(folder: Path, *names: str, limit: int) -> bytes | None:
    """Return the contents of a file of a folder; None if it cannot be read, or is larger than a limit."""
    try:
        with opened(folder, *names) as stream:
            data = stream.read(limit + 1)
    except OSError:
        return None
    return data if len(data) <= limit else None


def modified(folder: Path, *names: str) -> float | None:
    """Return when a file of a folder was last changed, in seconds since 1970; None if it cannot be read."""
    try:
        with opened(folder, *names) as stream:
            return os.fstat(stream.fileno()).st_mtime
    except OSError:
        return None


def subfolders(folder: Path, *names: str) -> list[str]:
    """Return the sorted names of the folders below a folder, without links and hidden ones."""
    try:
        with os.scandir(folder.joinpath(*names)) as entries:
            folders = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        return sorted(name for name in folders if not name.startswith("."))
    except OSError:
        return []


def names_in(folder: Path, *names: str) -> list[str]:
    """Return the sorted names of the files below a folder, without links."""
    try:
        with os.scandir(folder.joinpath(*names)) as entries:
            return sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    except OSError:
        return []


def is_run(folder: Path) -> bool:
    """Whether a folder contains a run."""
    return any((folder / mark).is_file() for mark in MARKS)


def find_runs(root: Path) -> tuple[dict[str, Path], int]:
    """Return the runs in a folder by their path below it, and the number of links to folders that were left out.

    Args:
        root: folder of runs; not a run itself.
    """
    runs: dict[str, Path] = {}
    links = visited = 0
    waiting = [(root, 0)]
    while waiting and len(runs) < MAX_RUNS and visited < MAX_FOLDERS:
        folder, level = waiting.pop(0)
        visited += 1
        inner = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_symlink():
                        links += entry.is_dir()
                    elif entry.is_dir(follow_symlinks=False):
                        inner.append(Path(entry.path))
        except OSError:
            continue
        for path in sorted(inner):
            if is_run(path):
                runs[path.relative_to(root).as_posix()] = path
            elif level + 1 < MAX_LEVELS:
                waiting.append((path, level + 1))
    return dict(list(runs.items())[:MAX_RUNS]), links
