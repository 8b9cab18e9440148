"""Starts the ranks of this machine with DeepSpeed's launcher, and ends with the exit code of a stop if it is stopped.

DeepSpeed's launcher ends with exit code 1 on SIGTERM and Ctrl-C, like a rank that fails, and SIGUSR1 kills it.
"""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType

import psutil
from deepspeed.launcher import launch

from uml_shards.errors import STOPPED

from .ancestors import LAUNCHER
from .stopping import SIGNALS


def main() -> int:
    """Run the launcher with the arguments of this process; return its exit code, or 75 if a signal stopped it."""
    os.environ[LAUNCHER] = str(os.getpid())  # for the ranks
    signal.signal(signal.SIGUSR1, _pass_on)
    # The launcher would report a rank that has stopped as an error, after the rank's own line.
    launch.logger.addFilter(lambda record: not record.getMessage().endswith(f"return code = {STOPPED}"))
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    # The launcher has its own handlers; this also records the numbers of the signals that they handle.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        launch.main()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    else:
        code = 0
    signal.set_wakeup_fd(-1)
    try:
        received = os.read(reader, 64)
    except BlockingIOError:
        return code
    return STOPPED if code and any(number in SIGNALS for number in received) else code


def _pass_on(number: int, frame: FrameType | None) -> None:
    """Send a signal to the ranks."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            child.send_signal(number)


if __name__ == "__main__":
    sys.exit(main())
