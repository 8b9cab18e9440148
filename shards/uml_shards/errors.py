"""The error raised for problems that users can fix themselves, and how commands report such errors."""

import sys
from collections.abc import Callable
from typing import Literal

from .output import keep_output, output_failed

Reason = Literal["image", "mask", "label", "tar", "remote", "other"]
"""The faulty part: a component of a sample, the tar that contains it, or the server that provides the tar."""


class ShardError(ValueError):
    """A shard, manifest, sample or raw data set is missing, damaged or invalid.

    The message is one line: what is wrong, where, and what to do.

    Attributes:
        reason: kind of the error; skipped samples are counted by it.
    """

    def __init__(self, message: str, reason: Reason = "other") -> None:
        super().__init__(message)
        self.reason: Reason = reason


def one_line(error: BaseException) -> str:
    """Return the message of any error as one line, or its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


STOPPED = 75
"""Exit code of a program that the user or the system has stopped and that can be repeated."""


def run_command(command: Callable[[], int], debug: bool, errors: tuple[type[Exception], ...] = (ShardError,)) -> int:
    """Run a command and return its exit code; report an error that users can fix as one line, with exit code 2.

    The code is also 2 if output is lost because it cannot be written, and 75 after Ctrl-C.

    Args:
        command: the command.
        debug: whether to raise such errors instead.
        errors: the errors that users can fix.
    """
    keep_output()
    try:
        code = command()
        sys.stdout.flush()
    except errors as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: repeat the command to continue", file=sys.stderr)
        return STOPPED
    return code or (2 if output_failed() else 0)
