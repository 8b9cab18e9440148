"""A file behind a URL, opened: http and https by the standard library, other schemes by fsspec.

Nothing here runs a shell, follows a redirect to another scheme, or waits without end.
"""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPMessage, InvalidURL
from ssl import SSLCertVerificationError
from typing import IO, Any, BinaryIO, Protocol
from urllib import request as web
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from ..address import Address

TIMEOUT_SECONDS = 30.0
"""The longest silence of a server that is waited for."""

CHUNK_BYTES = 1 << 16
"""Read at once: what a broken connection loses at most."""

MAY_PASS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
"""Answers below 500 that another try may change."""


class TransientError(Exception):
    """A try that failed for a reason which may pass; the message is one short line."""


class PermanentError(Exception):
    """A failure that no further try changes; the message is one short line."""


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Reading:
    """A remote file, opened.

    Attributes:
        source: gives its bytes.
        start: where they begin.
        size: of the whole file, where the server says it.
        version: what tells this state of the file from a later one, where the server says it.
    """

    source: _Source
    start: int
    size: int | None
    version: str | None

    def chunks(self, address: Address) -> Iterator[bytes]:
        """Its bytes, to their end."""
        while True:
            with _explaining(address):
                chunk = self.source.read(CHUNK_BYTES)
            if not chunk:
                return
            yield chunk


def open_remote(address: Address, start: int = 0, version: str | None = None) -> Reading:
    """Open a remote file, or its rest where that is still of a version seen before; else it is opened anew.

    Args:
        address: of the file.
        start: the first byte that is wanted, if there is a version.
        version: of an earlier reading.

    Raises:
        TransientError: it failed for a reason that may pass.
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
        if urlsplit(newurl).scheme not in (urlsplit(req.full_url).scheme, "https"):
            raise HTTPError(req.full_url, code, "redirect to another scheme", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open_web(address: Address, start: int, version: str | None) -> Reading:
    """Ask for a file, or for its rest if it is still of the given version."""
    parts = address.parts
    ask = web.Request(parts._replace(netloc=address.host, fragment="").geturl())  # urllib knows no user in a URL
    ask.add_header("Accept-Encoding", "identity")
    ask.add_header("User-Agent", "uml_shards")
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        # Unredirected: the password is for this host only.
        ask.add_unredirected_header("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
    if start and version:
        ask.add_header("Range", f"bytes={start}-")
        ask.add_header("If-Range", version)
    try:
        answer = _web_opener().open(ask, timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        error.close()
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return _open_web(address, 0, None)
        raise
    span = answer.headers.get("Content-Range", "").removeprefix("bytes ")
    continued = answer.status == HTTPStatus.PARTIAL_CONTENT
    if continued and not span.startswith(f"{start}-"):
        answer.close()
        raise TransientError("the server answers with another range than was asked for")
    start = start if continued else 0
    length = answer.headers.get("Content-Length", "")
    size = start + int(length) if length.isdecimal() else None
    return Reading(answer, start, size, _version(answer.headers))


def _web_opener() -> web.OpenerDirector:
    """Of http and https alone, through the proxies of the environment; urllib's own opens files and ftp too."""
    opener = web.OpenerDirector()
    handlers = (
        web.ProxyHandler(), web.HTTPHandler(), web.HTTPSHandler(), web.HTTPDefaultErrorHandler(), _Redirects(),
        web.HTTPErrorProcessor(), web.UnknownHandler(),
    )  # fmt: skip
    for handler in handlers:
        opener.add_handler(handler)
    return opener


def _version(headers: HTTPMessage) -> str | None:
    """What If-Range may hold: a strong ETag, or the date of the last change."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified")


def _open_by_fsspec(address: Address, start: int, version: str | None) -> Reading:
    """The same for every scheme that fsspec knows; keys and endpoints come from fsspec's own configuration."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise PermanentError(f"{address.scheme}:// needs fsspec: pip install 'uml-shards[remote]'") from None
    try:
        system, path = url_to_fs(address.url)
    except (ImportError, ValueError) as error:
        raise PermanentError(_reason(error, address)) from None
    about: dict[str, Any] = system.info(path)
    now = str(sorted(about.items()))
    file: BinaryIO = system.open(path, "rb")
    start = start if now == version else 0
    file.seek(start)
    return Reading(file, start, about.get("size"), now)


@contextmanager
def _explaining(address: Address) -> Iterator[None]:
    """Let every failure of a server or a file system say in one line what it is, and whether it may pass."""
    try:
        yield
    except (TransientError, PermanentError):
        raise
    except HTTPError as error:
        raise _answered(error.code) from None
    except (FileNotFoundError, IsADirectoryError):
        raise PermanentError("there is no such file: check the address") from None
    except (PermissionError, InvalidURL, ValueError) as error:
        raise PermanentError(_reason(error, address)) from None
    except URLError as error:
        cause = error.reason if isinstance(error.reason, Exception) else error
        kind = PermanentError if isinstance(cause, SSLCertVerificationError) else TransientError
        raise kind(_reason(cause, address)) from None
    except (OSError, HTTPException) as error:
        raise TransientError(_reason(error, address)) from None
    except Exception as error:  # each file system of fsspec has errors of its own
        raise TransientError(f"{type(error).__name__}: {_reason(error, address)}") from None


def _answered(code: int) -> TransientError | PermanentError:
    """What an answer of HTTP that is no success means."""
    if 300 <= code < 400:
        return PermanentError(
            f"the server answers {code}, a redirect to another scheme or without an end: give its target"
        )
    phrase = HTTPStatus(code).phrase if code in list(HTTPStatus) else ""
    said = f"the server answers {code} {phrase}".rstrip()
    return TransientError(said) if code >= 500 or code in MAY_PASS else PermanentError(f"{said}: check the address")


def _reason(error: Exception, address: Address) -> str:
    """An error of someone else in one short line without secrets."""
    text = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return address.redact(str(text))[:200]
