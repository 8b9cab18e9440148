"""The program that writes a checkpoint to the disk in the background: `background.py` starts it.

It gets the files of the checkpoint in memory files, which it inherits, and ends when its parent does.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import UmlError
from .checkpoint_files import save_files

PR_SET_PDEATHSIG = 1  # from linux/prctl.h
PIECE = 1 << 20  # bytes, which fit into the cache of a core


def main(folder: str, order: str) -> int:
    """Write a checkpoint and print what came of it, as JSON: the time of the monotonic clock, and the problem if any.

    Args:
        folder: the `checkpoints` folder.
        order: the rest of the order, as JSON; see `uml_dist.run.background`.
    """
    given = json.loads(order)
    end_with(given["parent"])
    files = {name: read_memory_file(descriptor) for name, descriptor in given["files"].items()}
    problem = None
    try:
        save_files(Path(folder), given["step"], files, given["pointers"], given["keep"])
    except UmlError as error:
        problem = str(error)
    print(json.dumps({"time": time.monotonic(), "problem": problem}))
    return 0


def end_with(parent: int) -> None:
    """Let the system kill this process as soon as its parent has ended."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before
        os._exit(1)


def read_memory_file(descriptor: int) -> Iterator[memoryview]:
    """Yield the pieces of an inherited memory file, each valid until the next; free it when it has been read."""
    buffer = memoryview(bytearray(PIECE))
    with open(descriptor, "rb", buffering=0) as file:
        file.seek(0)
        while count := file.readinto(buffer):
            yield buffer[:count]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
