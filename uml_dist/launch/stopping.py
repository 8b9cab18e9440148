"""What SIGTERM, SIGUSR1 and Ctrl-C do to a rank."""

import os
import signal
from collections.abc import Callable
from types import FrameType

from uml_shards.errors import STOPPED

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals that stop a training; schedulers send SIGUSR1 some time before the end of a job."""


def stop_on_signals(stopped: Callable[[str], bool]) -> None:
    """Let SIGTERM, SIGINT and SIGUSR1 stop this process; a signal that is ignored now stays ignored.

    Processes that are forked from this one end silently, unless they set handlers of their own, as loader workers do.

    Args:
        stopped: called with the name of the signal, between any two instructions of the main thread. It returns
            whether the process is to end at once, with exit code 75. It must not print to Python's streams, which may
            be in use.
    """
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            os._exit(STOPPED)
        ends = True
        try:
            ends = stopped(signal.Signals(number).name)
        finally:
            if ends:
                os._exit(STOPPED)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
