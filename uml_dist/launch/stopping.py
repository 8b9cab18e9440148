"""What SIGTERM and Ctrl-C do to a rank: it ends with the exit code of a stop, and without a traceback."""

import os
import signal
from collections.abc import Callable
from types import FrameType

from uml_shards.errors import STOPPED

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_on_signals(stopped: Callable[[str], None]) -> None:
    """Let SIGTERM and SIGINT end this process with exit code 75; a signal that is ignored now stays ignored.

    Args:
        stopped: called with the name of the signal before the process ends, between any two instructions of the main
            thread. It must not print to Python's streams, which may be in use.
    """
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        # Launchers stop loader workers as well, and torch would raise an error for each of them.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            if os.getpid() == process:  # and not in a forked loader worker
                stopped(signal.Signals(number).name)
        finally:
            os._exit(STOPPED)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
