"""Locations of shards: a local folder, or a URL whose credentials are never printed."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from .errors import ShardError

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
WEB_SCHEMES = ("http", "https")


@dataclass(frozen=True)
class Address:
    """A URL with path operations: `address / "train"`, `address.parent`, `address.name`. The fragment is dropped.

    `str`, `repr` and all messages omit user, password, query and fragment, since these may be secrets.

    Attributes:
        url: the complete URL.

    Raises:
        ShardError: the URL is not valid.
    """

    url: str = field(repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            valid = bool(URL.match(self.url)) and (parts.port is None or parts.port > 0) and self.url.isprintable()
        except ValueError:
            valid = False
        if not valid:
            raise ShardError("the address of the shards is not a valid URL: write it as http://host/folder/train")

    @property
    def parts(self) -> SplitResult:
        """The components of the URL: scheme, host, path, query."""
        return urlsplit(self.url)

    @property
    def scheme(self) -> str:
        """The scheme in lower case, such as http or s3."""
        return self.parts.scheme

    @property
    def is_web(self) -> bool:
        """Whether the scheme is http or https."""
        return self.scheme in WEB_SCHEMES

    @property
    def host(self) -> str:
        """Host and port, without user and password."""
        return self.parts.netloc.rpartition("@")[2]

    @property
    def name(self) -> str:
        """The last part of the path."""
        name = self.parts.path.rstrip("/").rpartition("/")[2]
        return unquote(name) if self.is_web else name

    @property
    def parent(self) -> "Address":
        """The parent folder."""
        return self._with_path(self.parts.path.rstrip("/").rpartition("/")[0])

    def __truediv__(self, name: str) -> "Address":
        """Append a name to the path. The query is kept, as signed URLs of folders require."""
        return self._with_path(f"{self.parts.path.rstrip('/')}/{quote(name) if self.is_web else name}")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{self.parts.path}"

    def redact(self, text: str) -> str:
        """Remove from a third-party message about this address everything that `str` omits."""
        secrets = (self.parts.netloc.rpartition("@")[0], self.parts.query, self.parts.password)
        text = text.replace(self.url, str(self))
        for secret in filter(None, secrets):
            text = text.replace(secret, "...")
        return text

    def _with_path(self, path: str) -> "Address":
        # geturl() drops the slashes before an empty host if the scheme is unknown to it.
        query = f"?{self.parts.query}" if self.parts.query else ""
        return Address(f"{self.scheme}://{self.parts.netloc}{path}{query}")


Location = Path | Address
"""A local folder or the URL of a folder."""


def parse_location(text: str | Location) -> Location:
    """Parse a path or a URL. Only `scheme://` makes a URL; `pipe:` and the like are file names.

    Raises:
        ShardError: the text begins like a URL but is not valid.
    """
    if isinstance(text, Address):
        return text
    return Address(text) if isinstance(text, str) and URL.match(text) else Path(text)
