"""Keys of samples made from the names of files."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

from ..errors import ShardError

KeyKind = Literal["hashed", "names"]
"""hashed: of salt and name, tells no file name; names: the name in the letters that keys may have."""

_LENGTH = 64


def make_keys(names: Iterable[str], kind: KeyKind, salt: str) -> dict[str, str]:
    """Name -> key, different for each.

    Raises:
        ShardError: two names get one key, or one gets none.
    """
    keys = {name: _slug(name) if kind == "names" else _hashed(salt, name) for name in names}
    owners: dict[str, str] = {}
    for name, key in keys.items():
        if not key or owners.setdefault(key, name) != name:
            why = f"and {owners[key]!r} get the same key {key!r}" if key else "gets no key of letters and digits"
            raise ShardError(f"{name!r} {why}: use keys=hashed, or rename")
    return keys


def _hashed(salt: str, name: str) -> str:
    return hashlib.blake2b(f"{salt}\0{name}".encode(), digest_size=8).hexdigest()


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9@+=-]+", "_", plain).strip("_@+=-")[:_LENGTH]
