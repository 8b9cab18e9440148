"""The error raised for problems that users can fix themselves, and how commands report such errors."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from .output import keep_output, output_failed
from .text import message_of

Reason = Literal["image", "mask", "label", "tar", "remote", "other"]
"""The faulty part: a component of a sample, the tar that contains it, or the server that provides the tar."""


class ShardError(ValueError):
    """A shard, manifest, sample or raw data set is missing, damaged or invalid.

    The message is one line: what is wrong, where, and what to do. It is made printable and shortened if necessary, as
    it may contain names of files and text of libraries.

    Attributes:
        reason: kind of the error; skipped samples are counted by it.
    """

    def __init__(self, message: str, reason: Reason = "other") -> None:
        super().__init__(message_of(message))
        self.reason: Reason = reason


def one_line(error: BaseException) -> str:
    """Return the message of any error as one printable line, or its class where it has none."""
    return message_of(" ".join(str(error).split())) or type(error).__name__


def print_error(problem: object) -> None:
    """Print a problem on stderr as one line, `error: ...`, whatever it contains."""
    print(f"error: {message_of(problem)}", file=sys.stderr, flush=True)


def reason_of(error: Exception) -> str:
    """Return why a library could not read a file: one line, without the path, of at most 300 characters."""
    from pydantic import ValidationError  # not before: small programs start faster without it

    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place}: {first['msg']}"[:300] if place else first["msg"][:300]
    reason = getattr(error, "strerror", None) or one_line(error)
    if isinstance(error, LookupError) and str(error):  # its message is only the key
        reason = f"{type(error).__name__}: {reason}"
    return str(reason)[:300]


@contextmanager
def reading(path: object, reason: Reason = "other") -> Iterator[None]:
    """Report any error of a library on the bytes of a file as one line that names the file.

    Libraries raise errors of many classes on damaged files, and their results may read the file later. Everything that
    is taken from a file should therefore become a number, text or array within this block.

    Raises:
        ShardError: "PATH cannot be read: ..."; errors that are a `ShardError` already are not changed.
    """
    try:
        yield
    except ShardError:
        raise
    except Exception as error:
        raise ShardError(f"{path} cannot be read: {reason_of(error)}", reason) from error


STOPPED = 75
"""Exit code of a program that the user or the system has stopped and that can be repeated."""


def run_command(command: Callable[[], int], debug: bool, errors: tuple[type[Exception], ...] = (ShardError,)) -> int:
    """Run a command and return its exit code; report an error that users can fix as one line, with exit code 2.

    The code is also 2 if output is lost because it cannot be written, and 75 after Ctrl-C.

    Args:
        command: the command.
        debug: whether to raise such errors instead.
        errors: the errors that users can fix; those of the system, such as a name that is too long, are too.
    """
    keep_output()
    try:
        code = command()
        sys.stdout.flush()
    except (*errors, OSError) as error:
        if debug:
            raise
        print_error(error)
        return 2
    except KeyboardInterrupt:
        print("stopped: repeat the command to continue", file=sys.stderr)
        return STOPPED
    return code or (2 if output_failed() else 0)
