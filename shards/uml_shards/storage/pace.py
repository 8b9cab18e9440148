"""The least rate of a transfer: a server that trickles is given up, like one that is silent.

A transfer has a certain time left. Waiting spends it, and every received byte of the file earns a little. Whatever else
a server sends earns nothing: headers, interim responses, the framing of chunks, trailers.
"""

import io
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


class Pace:
    """The time that a transfer has left.

    Args:
        seconds: time at the beginning, and the most that it can have.
        rate: number of bytes that earn a second.
    """

    def __init__(self, seconds: float, rate: int) -> None:
        self.seconds, self.rate = seconds, rate
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds left.

        Raises:
            TimeoutError: none are left.
        """
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError(f"timed out: the server sends fewer than {self.rate} bytes per second")
        return seconds

    def earn(self, received: int) -> None:
        """Add the time for received bytes."""
        self._end = min(self._end + received / self.rate, time.monotonic() + self.seconds)

    def excuse(self, seconds: float) -> None:
        """Add time in which nothing was read, such as that of writing to a slow disk."""
        self._end += seconds


class PacedSocket(io.RawIOBase):
    """The bytes that arrive at a socket, each awaited as long as the pace permits."""

    def __init__(self, connection: socket.socket, pace: Pace) -> None:
        self._connection, self._pace = connection, pace
        self._file = connection.makefile("rb", buffering=0)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        """Read what has arrived, after waiting for at least one byte; 0 at the end.

        Raises:
            TimeoutError: no time is left.
        """
        self._connection.settimeout(self._pace.left())
        try:
            return self._file.readinto(buffer)
        except TimeoutError:
            self._pace.left()  # its error states the reason
            raise

    def close(self) -> None:
        """Close the socket, if nothing else uses it."""
        self._file.close()
        super().close()


def within(pace: Pace, call: Callable[[], Result]) -> Result:
    """Return the result of a call that cannot be interrupted; if no time is left, leave it behind in its thread.

    Raises:
        TimeoutError: no time is left.
        Exception: whatever the call raises.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(pace.left())
    if errors:
        raise errors[0]
    if not results:
        pace.left()
        raise TimeoutError("timed out")
    return results[0]
