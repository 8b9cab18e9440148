"""What programs print: output that fails is given up, and never ends the work of a program."""

import errno
import io
import os
import select
import sys
from typing import Any, TextIO

DESCRIPTORS = {"stdout": 1, "stderr": 2}


class _Output(io.FileIO):
    """Standard output or error. After the first failed write, everything that is written is discarded.

    Attributes:
        failure: the error of the failed write; None while output can be written.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                written = super().write(left)
                if written is None:  # the pipe is full, and another program has made it non-blocking
                    select.select([], [self], [])
                left = left[written or 0 :]
        except OSError as error:
            self._give_up(error)
        return size

    def _give_up(self, error: OSError) -> None:
        self.failure = error
        _discard(self.fileno())
        if _matters(error) and self.fileno() != DESCRIPTORS["stderr"]:
            print(f"warning: output cannot be written: {error.strerror}: the rest of it is lost", file=sys.stderr)


def keep_output() -> None:
    """Make printing safe: it never raises, neither because of the reader or the disk nor because of the characters.

    When stdout or stderr fails (its reader has ended, the disk is full), what is written to it is discarded from then
    on, also by other libraries. Characters that the encoding lacks are printed as backslash escapes. Every program
    calls this first. Streams that have been replaced, as tests do, are left unchanged.
    """
    for name, descriptor in DESCRIPTORS.items():
        stream = getattr(sys, name)
        if stream is None or stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _kept(stream, descriptor))


def output_failed() -> bool:
    """Whether stdout could not be written, although its reader, if any, was still there."""
    raw = getattr(sys.stdout, "buffer", None)
    output = getattr(raw, "raw", raw)
    return isinstance(output, _Output) and output.failure is not None and _matters(output.failure)


def _kept(stream: TextIO | None, descriptor: int) -> TextIO:
    """Return a stream that writes like another one, or discards everything if the program was started without it."""
    if not isinstance(stream, io.TextIOWrapper):
        if not _is_open(descriptor):  # the next file that is opened would receive what other libraries print
            _discard(descriptor)
        return open(os.devnull, "w", encoding="utf-8")
    stream.flush()  # nothing has been printed yet
    raw = _Output(descriptor)
    errors = "backslashreplace" if stream.errors in ("strict", "surrogateescape") else stream.errors
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _discard(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)


def _matters(error: OSError) -> bool:
    """Whether output is lost that somebody wanted: a reader that ends early, such as `head`, has what it wants."""
    return error.errno != errno.EPIPE
