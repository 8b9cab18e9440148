"""Files and folders that are on the disk, and not only on their way to it, before the next step relies on them."""

import errno
import os
from pathlib import Path

NO_SYNC = (errno.EINVAL, errno.ENOTSUP)
"""What file systems answer that cannot sync a folder."""


def write_text(path: Path, text: str) -> None:
    """Write a file, down to the disk.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def replace_text(path: Path, text: str) -> None:
    """Write a file that holds the old text or the new one at any moment, power cut or not.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    write_text(temporary, text)
    temporary.replace(path)
    sync_folder(path.parent)


def sync(path: Path) -> None:
    """Bring a file that others have written down to the disk.

    Raises:
        OSError: the disk has failed.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder down to the disk, where the file system can.

    Raises:
        OSError: the disk has failed.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)
