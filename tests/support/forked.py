"""A process that does something, waits, and is killed; forked, since a new interpreter imports torch for seconds."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def forked(function: Callable[[], str]) -> Iterator[tuple[int, str]]:
    """Call a function in another process, which lives until it is killed; its id and what the function returned.

    After the block, the process has been killed, and nothing of it is left.
    """
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.write(writer, function().encode())
            os.close(writer)
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    try:
        with os.fdopen(reader, encoding="utf-8") as stream:
            yield process, stream.read()
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
