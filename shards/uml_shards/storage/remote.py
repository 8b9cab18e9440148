"""Open a file behind a URL: http and https by the standard library, other schemes by fsspec.

Nothing here runs a shell, follows a redirect to another scheme (except from http to https), or waits without a bound.
"""

import base64
import io
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse, HTTPSConnection, InvalidURL
from typing import IO, Any, BinaryIO, Protocol
from urllib import request as web
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from ..address import Address
from ..errors import one_line
from .pace import Pace, PacedSocket, within

TIMEOUT_SECONDS = 20.0
"""Longest time for a connection, for a complete response header, and without a byte of the file."""

LEAST_RATE = 10_000
"""Bytes per second that a transfer must bring on average over `TIMEOUT_SECONDS`; others are broken off."""

BLOCK_TIMEOUT_SECONDS = 300.0
"""The same time for fsspec, which reads blocks of up to 50 MB at once."""

CHUNK_BYTES = 1 << 16
"""Bytes read at once: at most this much is lost when a connection breaks."""

MAY_PASS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
"""HTTP status codes below 500 for which another try may succeed."""


class TransientError(Exception):
    """A failure that may not occur at the next try; the message is one short line."""


class PermanentError(Exception):
    """A failure that would occur at every further try; the message is one short line."""


class _Source(Protocol):
    def read1(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Reading:
    """An open remote file.

    Attributes:
        source: stream of the bytes; a read returns what has arrived.
        start: offset of the first byte in the file.
        size: size of the complete file, if the server reports it.
        version: identifier of this version of the file, if the server reports one.
        pace: the time that the transfer has left.
    """

    source: _Source
    start: int
    size: int | None
    version: str | None
    pace: Pace

    def chunks(self, address: Address) -> Iterator[bytes]:
        """Yield the bytes up to the end."""
        while True:
            with _explaining(address):
                chunk = self.source.read1(CHUNK_BYTES)
            if not chunk:
                return
            self.pace.earn(len(chunk))
            paused = time.monotonic()
            yield chunk
            self.pace.excuse(time.monotonic() - paused)


def open_remote(address: Address, start: int = 0, version: str | None = None) -> Reading:
    """Open a remote file at an offset if its version is unchanged, or else at its beginning.

    Args:
        address: URL of the file.
        start: offset of the first byte to read; used only with a version.
        version: version of an earlier reading.

    Raises:
        TransientError: another try may succeed.
        PermanentError: another try would fail as well.
    """
    opener = _open_web if address.is_web else _open_by_fsspec
    with _explaining(address):
        return opener(address, start if version else 0, version)


class _Redirects(web.HTTPRedirectHandler):
    """Follows redirects within a scheme, and from http to https."""

    def redirect_request(
        self, req: web.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> web.Request | None:
        fp.close()  # or else urllib would read the body, however long
        if urlsplit(newurl).scheme not in (urlsplit(req.full_url).scheme, "https"):
            raise HTTPError(req.full_url, code, "redirect to another scheme", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Response(HTTPResponse):
    """A response whose bytes must arrive in time, from the status line to the trailers."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self.pace = Pace(TIMEOUT_SECONDS, LEAST_RATE)
        self.fp = io.BufferedReader(PacedSocket(sock, self.pace), CHUNK_BYTES)


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


class _Web(web.AbstractHTTPHandler):
    """Opens http and https."""

    http_request = https_request = web.AbstractHTTPHandler.do_request_

    def http_open(self, request: web.Request) -> Any:
        return self.do_open(_Connection, request)

    def https_open(self, request: web.Request) -> Any:
        return self.do_open(_SecureConnection, request, context=ssl.create_default_context())


def _open_web(address: Address, start: int, version: str | None) -> Reading:
    """Request a file, or its rest if it still has the given version."""
    parts = address.parts
    # urllib does not support a user in the URL.
    request = web.Request(parts._replace(netloc=address.host, fragment="").geturl())
    request.add_header("Accept-Encoding", "identity")
    request.add_header("User-Agent", "uml_shards")
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        # An unredirected header is not sent to another host.
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
    if start and version:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", version)
    try:
        response = _web_opener().open(request, timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        error.close()
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return _open_web(address, 0, None)
        raise
    span = response.headers.get("Content-Range", "").removeprefix("bytes ")
    partial = response.status == HTTPStatus.PARTIAL_CONTENT
    if partial and not span.startswith(f"{start}-"):
        response.close()
        raise TransientError("the server returned another range than requested")
    start = start if partial else 0
    length = response.headers.get("Content-Length", "")
    size = start + int(length) if length.isdecimal() else None
    return Reading(response, start, size, _version(response.headers), response.pace)


def _web_opener() -> web.OpenerDirector:
    """Return an opener for http and https only, with the environment's proxies. urllib's default also opens files."""
    opener = web.OpenerDirector()
    handlers = (
        web.ProxyHandler(), _Web(), web.HTTPDefaultErrorHandler(), _Redirects(), web.HTTPErrorProcessor(),
        web.UnknownHandler(),
    )  # fmt: skip
    for handler in handlers:
        opener.add_handler(handler)
    return opener


def _version(headers: HTTPMessage) -> str | None:
    """Return a value for the If-Range header: a strong ETag, or the date of the last modification."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified")


class _Paced:
    """A file of fsspec. Its reads cannot be interrupted, so each runs in a thread that is left behind if it hangs."""

    def __init__(self, file: BinaryIO, pace: Pace) -> None:
        self._file, self._pace = file, pace

    def read1(self, size: int) -> bytes:
        return within(self._pace, lambda: self._file.read(size))

    def close(self) -> None:
        self._file.close()


def _open_by_fsspec(address: Address, start: int, version: str | None) -> Reading:
    """Open a file of any scheme supported by fsspec. Keys and endpoints come from fsspec's own configuration."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise PermanentError(f"{address.scheme}:// needs fsspec: pip install 'uml-shards[remote]'") from None
    pace = Pace(BLOCK_TIMEOUT_SECONDS, LEAST_RATE)

    def opened() -> tuple[BinaryIO, dict[str, Any]]:
        system, path = url_to_fs(address.url)
        about: dict[str, Any] = system.info(path)
        if about.get("type", "file") not in ("file", "link"):
            raise PermanentError("it is not a regular file")
        return system.open(path, "rb"), about

    try:
        file, about = within(pace, opened)
    except (ImportError, ValueError) as error:
        raise PermanentError(_reason(error, address)) from None
    now = str(sorted(about.items()))
    start = start if now == version else 0
    within(pace, lambda: file.seek(start))
    return Reading(_Paced(file, pace), start, about.get("size"), now, pace)


@contextmanager
def _explaining(address: Address) -> Iterator[None]:
    """Convert every failure of a server or a file system to a TransientError or PermanentError of one line."""
    try:
        yield
    except (TransientError, PermanentError):
        raise
    except HTTPError as error:
        raise _http_error(error.code) from None
    except (FileNotFoundError, IsADirectoryError):
        raise PermanentError("the file does not exist: check the address") from None
    except (PermissionError, InvalidURL, ValueError) as error:
        raise PermanentError(_reason(error, address)) from None
    except URLError as error:
        cause = error.reason if isinstance(error.reason, Exception) else error
        kind = PermanentError if isinstance(cause, ssl.SSLCertVerificationError) else TransientError
        raise kind(_reason(cause, address)) from None
    except (OSError, HTTPException) as error:
        raise TransientError(_reason(error, address)) from None
    except Exception as error:  # each fsspec file system has its own errors
        raise TransientError(f"{type(error).__name__}: {_reason(error, address)}") from None


def _http_error(code: int) -> TransientError | PermanentError:
    """Return the error for an HTTP status code that is not a success."""
    if 300 <= code < 400:
        return PermanentError(
            f"the server returned {code}, a redirect to another scheme or a redirect loop: use the final URL"
        )
    phrase = HTTPStatus(code).phrase if code in list(HTTPStatus) else ""
    problem = f"the server returned {code} {phrase}".rstrip()
    if code >= 500 or code in MAY_PASS:
        return TransientError(problem)
    return PermanentError(f"{problem}: check the address")


def _reason(error: Exception, address: Address) -> str:
    """Return a third-party error message as one short line without secrets."""
    text = getattr(error, "strerror", None) or one_line(error)
    return address.redact(str(text))[:200]
