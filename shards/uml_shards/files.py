"""Reads regular files: never waits for a pipe or a device, and never reads more than is allowed."""

import errno
import os
import stat
from pathlib import Path

from .tally import count


def open_regular(path: str | Path) -> int:
    """Open a regular file for reading and return its descriptor.

    Raises:
        OSError: it cannot be opened, or it is a folder, pipe, socket or device.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return descriptor


def read_regular(path: str | Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises:
        OSError: it cannot be read, is not a regular file, or is larger.
    """
    with open(open_regular(path), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit} bytes", str(path))
    return data


def read_range(descriptor: int, size: int, offset: int) -> bytes:
    """Read `size` bytes at an offset of an open file; fewer only if the file ends before.

    Raises:
        OSError: the disk has failed.
    """
    data = os.pread(descriptor, size, offset)
    if len(data) < size:
        parts = [data]  # Linux reads at most 0x7ffff000 bytes at once
        while parts[-1]:
            offset, size = offset + len(parts[-1]), size - len(parts[-1])
            parts.append(os.pread(descriptor, size, offset))
        data = b"".join(parts)
    count("shard_read_bytes", len(data))
    return data


def read_into(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill a buffer of bytes from an offset of an open file; return the number of bytes, fewer only at the file's end.

    Raises:
        OSError: the disk has failed.
    """
    done = 0
    while done < len(buffer) and (more := os.preadv(descriptor, [buffer[done:]], offset + done)):
        done += more
    count("shard_read_bytes", done)
    return done
