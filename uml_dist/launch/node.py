"""Starts the ranks of this machine with DeepSpeed's launcher, and again after a failure if `--restarts` allows it.

It ends with the exit code of a stop if it is stopped. DeepSpeed's launcher ends with exit code 1 on SIGTERM and Ctrl-C,
like a rank that fails, and SIGUSR1 kills it.
"""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import psutil
from deepspeed.launcher import launch

from uml_shards.errors import STOPPED

from ..errors import CORRUPT
from .ancestors import remember_this_launcher
from .restarts import Restarts
from .stopping import SIGNALS
from .world import PORT, free_port


def main() -> int:
    """Run the launcher with the arguments of this process; return its exit code, or 75 if a signal stopped it."""
    remember_this_launcher()
    signal.signal(signal.SIGUSR1, _pass_on)
    # The launcher would report these ends once more, after the rank's own line.
    told = tuple(f"return code = {code}" for code in (2, STOPPED, CORRUPT))
    launch.logger.addFilter(lambda record: not record.getMessage().endswith(told))
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
        received = b""
    if code and any(number in SIGNALS for number in received):
        return STOPPED
    restarts = Restarts.read(os.environ)
    following = restarts.after(code) if restarts else None
    if following:
        _start_again(following, code)
    return code


def _start_again(restarts: Restarts, code: int) -> NoReturn:
    """Replace this process by another launcher of the same ranks, on another port."""
    number = f"{restarts.allowed - restarts.left} of {restarts.allowed} without progress"
    print(f"the ranks have ended with exit code {code}: restart {number}", file=sys.stderr, flush=True)
    restarts.write(os.environ)
    arguments = [f"{PORT}{free_port()}" if word.startswith(PORT) else word for word in sys.argv[1:]]
    os.execv(sys.executable, [sys.executable, "-u", "-m", f"{__package__}.node", *arguments])


def _pass_on(number: int, frame: FrameType | None) -> None:
    """Send a signal to the ranks."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            child.send_signal(number)


if __name__ == "__main__":
    sys.exit(main())
