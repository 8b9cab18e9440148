"""Starts the ranks of this machine with DeepSpeed's launcher, and ends with the exit code of a stop if it is stopped.

DeepSpeed's launcher ends with exit code 1 on SIGTERM and Ctrl-C, like a rank that fails.
"""

import os
import signal
import sys

from deepspeed.launcher import launch

from uml_shards.errors import STOPPED

from .ancestors import LAUNCHER
from .stopping import SIGNALS


def main() -> int:
    """Run the launcher with the arguments of this process; return its exit code, or 75 if a signal stopped it."""
    os.environ[LAUNCHER] = str(os.getpid())  # for the ranks
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
    return STOPPED if any(number in SIGNALS for number in received) else code


if __name__ == "__main__":
    sys.exit(main())
