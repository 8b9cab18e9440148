"""Where shards are: a folder, or a URL that never shows its password."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from .errors import ShardError

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
WEB_SCHEMES = ("http", "https")


@dataclass(frozen=True)
class Address:
    """A URL, used like a path: `address / "train"`, `address.parent`, `address.name`; a fragment is left out.

    Printed without user, password, query and fragment, which may be secrets: by `str`, `repr` and every message.

    Attributes:
        url: in full.

    Raises:
        ShardError: it is no URL.
    """

    url: str = field(repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            valid = bool(URL.match(self.url)) and (parts.port is None or parts.port > 0) and self.url.isprintable()
        except ValueError:
            valid = False
        if not valid:
            raise ShardError("the address of the shards is no valid URL: write it as http://host/folder/train")

    @property
    def parts(self) -> SplitResult:
        """Scheme, host, path and the rest."""
        return urlsplit(self.url)

    @property
    def scheme(self) -> str:
        """In small letters, such as http or s3."""
        return self.parts.scheme

    @property
    def is_web(self) -> bool:
        """Whether it is read by http or https."""
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
        """The folder above."""
        return self._with_path(self.parts.path.rstrip("/").rpartition("/")[0])

    def __truediv__(self, name: str) -> "Address":
        """What lies in it; a query stays behind the path, as signed URLs of whole folders want it."""
        return self._with_path(f"{self.parts.path.rstrip('/')}/{quote(name) if self.is_web else name}")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{self.parts.path}"

    def redact(self, text: str) -> str:
        """A text of someone else about this address, without what `str` leaves out."""
        secrets = (self.parts.netloc.rpartition("@")[0], self.parts.query, self.parts.password)
        text = text.replace(self.url, str(self))
        for secret in filter(None, secrets):
            text = text.replace(secret, "...")
        return text

    def _with_path(self, path: str) -> "Address":
        # Not geturl(): where it does not know the scheme, it leaves out the slashes before an empty host.
        query = f"?{self.parts.query}" if self.parts.query else ""
        return Address(f"{self.scheme}://{self.parts.netloc}{path}{query}")


Location = Path | Address
"""A folder, or the URL of one."""


def parse_location(text: str | Location) -> Location:
    """The folder or the URL that a text names. Only `scheme://` makes a URL: `pipe:` and the like are file names.

    Raises:
        ShardError: it begins like a URL and is none.
    """
    if isinstance(text, Address):
        return text
    return Address(text) if isinstance(text, str) and URL.match(text) else Path(text)
