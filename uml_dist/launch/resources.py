"""What the system gives to processes that pass batches on: shared memory and open files."""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
UNLIMITED_FILES = 2**16
"""Open files to ask for where the system sets no limit."""


@dataclass(frozen=True)
class Space:
    """Total and free bytes of a file system."""

    total: int
    free: int


def read_space(folder: Path = SHARED_MEMORY) -> Space | None:
    """Return the size of shared memory; None if the system has no such folder."""
    if not folder.is_dir():
        return None
    usage = shutil.disk_usage(folder)
    return Space(usage.total, usage.free)


def read_open_files() -> tuple[int, int]:
    """Return the soft and the hard limit of open files; a negative value means no limit."""
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)


def raise_open_files() -> None:
    """Raise the soft limit of open files of this process, and of those that it starts, to the hard limit."""
    import resource

    soft, hard = read_open_files()
    wanted = hard if hard >= 0 else max(soft, UNLIMITED_FILES)
    if 0 <= soft < wanted:
        with suppress(OSError, ValueError):  # some systems have a lower limit of their own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
