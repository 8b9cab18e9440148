"""Fetching a remote file whole and checked, over as many tries as it takes.

A transfer that breaks goes on where it was, if the server can do that and its file is still the same one; else it
starts anew.
"""

import hashlib
import time
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from typing import IO

from ..address import Address
from ..errors import ShardError
from .remote import PermanentError, TransientError, open_remote

TRIES = 5
"""In a row without progress, before a transfer is given up."""

FIRST_PAUSE_SECONDS = 0.5
"""Before the second try; each further pause is twice as long."""


@dataclass(frozen=True)
class Content:
    """What a file must hold.

    Attributes:
        limit: the most bytes that are read of it.
        size: its bytes, where they are known.
        sha256: its digest, where it is known.
    """

    limit: int
    size: int | None = None
    sha256: str | None = None


def download(address: Address, file: IO[bytes], content: Content) -> None:
    """Write a remote file into an open one, from its beginning, and check it.

    Raises:
        ShardError: it cannot be had whole and right; one line with the URL and the reason.
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
            failures = 1 if transfer.received > furthest else failures + 1
            furthest = max(furthest, transfer.received)
            if failures >= TRIES:
                what = f"{address} cannot be read: {error}; given up after {failures} tries"
                raise ShardError(what, "remote") from None
            time.sleep(FIRST_PAUSE_SECONDS * 2 ** (failures - 1))


def read_bytes(address: Address, limit: int) -> bytes:
    """A small remote file.

    Raises:
        ShardError: see `download`; or it has more bytes than the limit.
    """
    buffer = BytesIO()
    download(address, buffer, Content(limit))
    return buffer.getvalue()[: buffer.tell()]  # an earlier try may have brought more


class _Transfer:
    """One file on its way, over as many tries as it takes."""

    def __init__(self, address: Address, file: IO[bytes], content: Content) -> None:
        self.address, self.file, self.content = address, file, content
        self.version: str | None = None
        self._start_anew()

    def attempt(self) -> None:
        """Go on until the file is there; raises TransientError or PermanentError."""
        reading = open_remote(self.address, self.received, self.version)
        with closing(reading.source):
            if reading.start != self.received:
                self._start_anew()
            self.version = reading.version
            for chunk in reading.chunks(self.address):
                self._take(chunk)
        if reading.size is not None and self.received < reading.size:
            raise TransientError(f"the connection ended after {self.received} of {reading.size} bytes")
        self._check()

    def _take(self, chunk: bytes) -> None:
        if self.received + len(chunk) > self.content.limit:
            self._start_anew()
            raise TransientError(f"it has more than {self.content.limit} bytes")
        self.file.write(chunk)
        self.digest.update(chunk)
        self.received += len(chunk)

    def _check(self) -> None:
        """Compare what came with what was promised; what is wrong is forgotten, so that the next try begins anew."""
        received, digest = self.received, self.digest.hexdigest()
        if self.content.size not in (None, received):
            self._start_anew()
            raise TransientError(f"it has {received} bytes, the manifest says {self.content.size}")
        if self.content.sha256 not in (None, digest):
            self._start_anew()
            raise TransientError("its sha256 is not the manifest's: it is damaged, or of other shards")

    def _start_anew(self) -> None:
        self.file.seek(0)
        self.digest = hashlib.sha256()
        self.received = 0
