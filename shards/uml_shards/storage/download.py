"""Download and check a remote file, with retries.

An interrupted transfer is resumed if the server supports ranges and its file has not changed. Otherwise it starts over.
"""

import hashlib
import time
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from typing import IO

from ..address import Address
from ..errors import ShardError
from .remote import CHUNK_BYTES, PermanentError, TransientError, open_remote

TRIES = 5
"""Number of consecutive tries without progress before a transfer is given up."""

PROGRESS_BYTES = CHUNK_BYTES
"""New bytes with which a try counts as progress: with fewer, a large file would take hours of tries."""

FIRST_PAUSE_SECONDS = 0.5
"""Pause before the second try; each further pause is twice as long."""


@dataclass(frozen=True)
class Content:
    """The expected content of a file.

    Attributes:
        limit: largest number of bytes to read.
        size: size in bytes, if known.
        sha256: digest, if known.
    """

    limit: int
    size: int | None = None
    sha256: str | None = None


def download(address: Address, file: IO[bytes], content: Content) -> None:
    """Download a remote file into an open file, from its beginning, and check it.

    Raises:
        ShardError: the file cannot be fetched or is damaged; one line with the URL and the reason.
        OSError: the open file cannot be written.
    """
    transfer = _Transfer(address, file, content)
    furthest = failures = 0
    while True:
        try:
            return transfer.attempt()
        except PermanentError as error:
            raise ShardError(f"{address} cannot be read: {error}", "remote") from None
        except TransientError as error:
            failures = 1 if transfer.received >= furthest + PROGRESS_BYTES else failures + 1
            furthest = max(furthest, transfer.received)
            if failures >= TRIES:
                problem = f"{address} cannot be read: {error}; gave up after {failures} tries"
                raise ShardError(problem, "remote") from None
            time.sleep(FIRST_PAUSE_SECONDS * 2 ** (failures - 1))


def read_bytes(address: Address, limit: int) -> bytes:
    """Read a small remote file.

    Raises:
        ShardError: see `download`; or the file is larger than the limit.
    """
    buffer = BytesIO()
    download(address, buffer, Content(limit))
    return buffer.getvalue()[: buffer.tell()]  # an earlier try may have written more


class _Transfer:
    """The transfer of one file over several tries."""

    def __init__(self, address: Address, file: IO[bytes], content: Content) -> None:
        self.address, self.file, self.content = address, file, content
        self.version: str | None = None
        self._start_over()

    def attempt(self) -> None:
        """Continue until the file is complete; raises TransientError or PermanentError."""
        reading = open_remote(self.address, self.received, self.version)
        with closing(reading.source):
            if reading.start != self.received:
                self._start_over()
            self.version = reading.version
            for chunk in reading.chunks(self.address):
                self._take(chunk)
        if reading.size is not None and self.received < reading.size:
            raise TransientError(f"the connection ended after {self.received} of {reading.size} bytes")
        self._check()

    def _take(self, chunk: bytes) -> None:
        if self.received + len(chunk) > self.content.limit:
            self._start_over()
            raise TransientError(f"the file has more than {self.content.limit} bytes")
        self.file.write(chunk)
        self.digest.update(chunk)
        self.received += len(chunk)

    def _check(self) -> None:
        """Check size and digest. If they are wrong, the data are discarded, so that the next try starts over."""
        received, digest = self.received, self.digest.hexdigest()
        if self.content.size not in (None, received):
            self._start_over()
            raise TransientError(f"the file has {received} bytes, the manifest states {self.content.size}")
        if self.content.sha256 not in (None, digest):
            self._start_over()
            raise TransientError("its sha256 differs from the manifest's: it is damaged or belongs to other shards")

    def _start_over(self) -> None:
        self.file.seek(0)
        self.digest = hashlib.sha256()
        self.received = 0
