"""Names of the files that are written for a case: safe in every file system, and different for different cases."""

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping

from .sources import Source

LONGEST = 80
"""Longest part of a name, in bytes: with ending and temporary suffix it stays below the 255 of all file systems."""

_ALLOWED = "-_.() +,@"
_ENDINGS = (".png", ".nii", ".gz", ".dcm", ".csv", ".tmp")
"""Endings of written files, which a folder of that name would hide."""


def assign_names(sources: Iterable[Source], known: Mapping[str, str]) -> dict[str, str]:
    """Return the name of each case, by its identity: its title as far as that is safe, in folders as in the input.

    Characters that some file system or terminal does not take are replaced, and a digest is added to what has changed
    and to all but the first of equal names, however they are written.

    Args:
        sources: the cases.
        known: names that an earlier call has given, by identity; they are kept.
    """
    names = dict(known)
    used = {_folded(name) for name in names.values()}
    for source in sources:
        if source.identity in names:
            continue
        name = safe_name(source.title)
        if _folded(name) in used:
            name = f"{name}-{_digest(source.identity)}"
        used.add(_folded(name))
        names[source.identity] = name
    return names


def safe_name(title: str) -> str:
    """Return a title as a relative path with forward slashes that is safe on every file system."""
    parts = [part for part in title.replace("\\", "/").split("/") if part not in ("", ".")] or [""]
    last = len(parts) - 1
    return "/".join(safe_part(part, folder=place < last) for place, part in enumerate(parts))


def safe_part(part: str, folder: bool = True) -> str:
    """Return a name, such as that of a class, as one part of a path; slashes are replaced too."""
    text = unicodedata.normalize("NFC", part)
    made = "".join(one if one.isalnum() or one in _ALLOWED else "_" for one in text)
    made = made.strip(" .")
    if made.startswith("-"):
        made = f"_{made[1:]}"
    made = _cut(made, LONGEST) or "case"
    hides = folder and made.lower().endswith(_ENDINGS)
    if made == text and not hides:
        return made
    return f"{_cut(made, LONGEST - 9)}-{_digest(part)}"


def _cut(text: str, most: int) -> str:
    return text.encode("utf-8", "ignore")[:most].decode("utf-8", "ignore").rstrip(" .")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _folded(name: str) -> str:
    """Return a name as file systems without case compare it."""
    return unicodedata.normalize("NFC", name.casefold())
