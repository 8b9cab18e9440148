"""The error raised for problems that users can fix themselves, and how commands report such errors."""

import sys
from collections.abc import Callable
from typing import Literal

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


def run_command(command: Callable[[], int], debug: bool, errors: tuple[type[Exception], ...] = (ShardError,)) -> int:
    """Run a command and return its exit code; report an error that users can fix as one line, with exit code 2.

    Args:
        command: the command.
        debug: whether to raise such errors instead.
        errors: the errors that users can fix.
    """
    try:
        return command()
    except errors as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
