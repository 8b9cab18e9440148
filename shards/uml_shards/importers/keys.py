"""Derive sample keys from file names."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

from ..errors import ShardError

KeyKind = Literal["hashed", "names"]
"""hashed: hash of salt and name, which hides the file name; names: the name reduced to allowed characters."""

_LENGTH = 64


def make_keys(names: Iterable[str], kind: KeyKind, salt: str) -> dict[str, str]:
    """Map name -> unique key.

    Raises:
        ShardError: two names get the same key, or a name gets an empty key.
    """
    keys = {name: _slug(name) if kind == "names" else _hashed(salt, name) for name in names}
    owners: dict[str, str] = {}
    for name, key in keys.items():
        if not key or owners.setdefault(key, name) != name:
            problem = f"and {owners[key]!r} get the same key {key!r}" if key else "contains no letters or digits"
            raise ShardError(f"{name!r} {problem}: use keys=hashed, or rename the file")
    return keys


def _hashed(salt: str, name: str) -> str:
    return hashlib.blake2b(f"{salt}\0{name}".encode(), digest_size=8).hexdigest()


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9@+=-]+", "_", plain).strip("_@+=-")[:_LENGTH]
