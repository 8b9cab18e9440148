"""Memory of a process that trains on the CPU: freed tensors are kept for the next ones."""

import ctypes
import os

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # parameters of mallopt (malloc.h)


def keep_freed_memory() -> None:
    """Let glibc's malloc keep what is freed instead of giving it back to the system; does nothing elsewhere.

    A tensor of 128 KiB or more would be given back whenever it is freed, so that the next step's has to be mapped and
    filled with zeros page by page again, which takes a sixth of a training step. Resident memory stays at its peak.
    What the user sets by glibc's own variables counts.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another malloc than glibc's, or no such library at all
        return
    if "MALLOC_MMAP_MAX_" not in os.environ:
        mallopt(MMAP_MAX, 0)
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        mallopt(TRIM_THRESHOLD, -1)
