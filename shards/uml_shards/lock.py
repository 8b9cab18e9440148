"""Locks on files, which the system releases when their holder dies."""

import fcntl
import os
import time
from pathlib import Path


def lock_file(path: Path, seconds: float) -> int | None:
    """Create a file if necessary, and lock it; folders are created too.

    Forked processes inherit the lock, which is released when the last of them closes the descriptor.

    Args:
        path: the file, which nobody but the holder of the lock may remove.
        seconds: how long to wait for another holder.

    Returns:
        The descriptor that holds the lock; None if another process still holds it.

    Raises:
        OSError: the file cannot be created, or its file system has no locks.
    """
    deadline = time.monotonic() + seconds
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:  # else the previous holder has just removed the file
                return descriptor
        except BlockingIOError:
            pass
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.05)
