"""Who may scrape the metrics, and over what: the certificate of HTTPS, and the bearer token."""

import hmac
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from uml_shards.errors import reason_of

from ..errors import UmlError

MAX_TOKEN_BYTES = 4096


@dataclass(frozen=True)
class Access:
    """How the server protects the metrics.

    Attributes:
        context: TLS with the server's certificate; None for HTTP.
        token: the bearer token that every request needs; None for none.
        notes: lines for the user about files that are not protected well.
    """

    context: ssl.SSLContext | None = None
    token: bytes | None = None
    notes: tuple[str, ...] = ()

    @property
    def scheme(self) -> str:
        """Scheme of the addresses."""
        return "https" if self.context else "http"

    def allows(self, authorization: str | None) -> bool:
        """Return whether a request with this header may be answered, in a time that does not depend on the token."""
        if self.token is None:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        # Headers are decoded as latin-1.
        same = hmac.compare_digest(given.strip().encode("latin-1", errors="replace"), self.token)
        return same and scheme.lower() == "bearer"


def read_access(certificate: str | None = None, key: str | None = None, token_file: str | None = None) -> Access:
    """Read the files that protect the metrics.

    Args:
        certificate: `metrics.certificate`, a PEM file.
        key: `metrics.key`, the PEM file with its private key.
        token_file: `metrics.token_file`.

    Raises:
        UmlError: a file cannot be read or does not contain what it should.
    """
    notes = [
        f"metrics.{name} {path} can be read by other users: chmod 600 it"
        for name, path in (("key", key), ("token_file", token_file))
        if path is not None and _is_open(Path(path))
    ]
    context = _context(certificate, key) if certificate is not None and key is not None else None
    return Access(context, _token(token_file) if token_file is not None else None, tuple(notes))


def _context(certificate: str, key: str) -> ssl.SSLContext:
    for name, path in (("certificate", certificate), ("key", key)):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise UmlError(f"metrics.{name} {path} cannot be read: {reason_of(error)}: name a PEM file") from None

    def ask() -> NoReturn:  # OpenSSL would ask on the terminal of every rank
        raise UmlError(f"metrics.key {key} needs a password: name a key without one, which only you can read")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, ask)
    except ssl.SSLError as error:
        raise UmlError(
            f"metrics.certificate {certificate} and metrics.key {key} cannot be used ({error.reason or 'not PEM'}): "
            "name a certificate and its key as PEM files"
        ) from None
    return context


def _token(token_file: str) -> bytes:
    try:
        with Path(token_file).open("rb") as file:
            token = file.read(MAX_TOKEN_BYTES + 1).strip()
    except OSError as error:
        raise UmlError(
            f"metrics.token_file {token_file} cannot be read: {reason_of(error)}: write the token into it"
        ) from None
    if not token or len(token) > MAX_TOKEN_BYTES or any(not 32 < byte < 127 for byte in token):
        raise UmlError(
            f"metrics.token_file {token_file} does not contain a token: write one line of letters, digits and "
            "punctuation into it"
        )
    return token


def _is_open(path: Path) -> bool:
    """Return whether users other than the owner can read a file."""
    try:
        return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
    except OSError:
        return False
