"""Writes files and folders that are on the disk, not only on their way to it, before the next step relies on them."""

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

TEMPORARY = ".tmp"
"""Ending of the names of unfinished files."""

NO_SYNC = (errno.EINVAL, errno.ENOTSUP)
"""Error codes of file systems that cannot sync a folder."""


def write_text(path: Path, text: str) -> None:
    """Write a file and wait until it is on the disk.

    Raises:
        OSError: it cannot be written.
    """
    _write(path, text.encode())


def replace_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a file atomically: it has the old text or the new one at any moment, even after a power failure.

    Args:
        path: the file.
        text: its new text.
        durable: whether to wait until it is on the disk.

    Raises:
        OSError: it cannot be written.
    """
    replace_bytes(path, text.encode(), durable=durable)


def replace_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace a file atomically, as `replace_text` does.

    Raises:
        OSError: it cannot be written.
    """
    # A name of its own, since another process may be replacing the same file.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        _write(temporary, data, durable)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def overwrite_text(path: Path, text: str) -> None:
    """Write a short text over that of an existing file, which needs no room on the disk.

    Raises:
        OSError: there is no file, or it cannot be written.
    """
    data = text.encode()
    with path.open("r+b", buffering=0) as file:
        file.write(data)
        file.truncate(len(data))
        os.fsync(file.fileno())


def _write(path: Path, data: bytes, durable: bool = True) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        if durable:
            os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Wait until a file that another library has written is on the disk.

    Raises:
        OSError: the disk has failed.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, if the file system supports it.

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
