"""What is accepted as a name of a class, data set or sample, and as free text, from files that others wrote."""

import unicodedata
from typing import NoReturn

from .errors import ShardError
from .text import shorten, shown

NAME_LENGTH = 100
"""Longest name, in characters."""

TEXT_LENGTH = 500
"""Longest licence or source, in characters."""


def check_name(name: str, where: str = "") -> str:
    """Check that a name can be shown anywhere, and does not differ from a name that looks the same by encoding only.

    Args:
        name: the name.
        where: what it names and where it stands, for error messages.

    Returns:
        The name.

    Raises:
        ShardError: the name is blank or too long, has blanks at its ends or characters that are not printable, or is
            not in Unicode's composed form (NFC).
    """
    if not name.strip():
        problem = "is blank"
    elif name != name.strip(" "):
        problem = "has blanks at its ends"
    elif not unicodedata.is_normalized("NFC", name):
        problem = f"({shorten(ascii(name), 60)}) is not in Unicode's composed form (NFC)"
    else:
        problem = _problem(name, NAME_LENGTH)
    return _refuse("name", name, f"{problem}: rename it", where) if problem else name


def check_file_name(name: str, where: str = "") -> str:
    """Check a name that becomes a part of paths, such as that of a data set or split; see `check_name`."""
    if {"/", "\\"} & set(name) or not name.strip("."):
        _refuse("name", name, "contains / or \\, or nothing but dots: rename it", where)
    return check_name(name, where)


def check_text(text: str, where: str = "") -> str:
    """Check that free text, such as a licence, is printable, on one line, and not too long; see `check_name`."""
    problem = _problem(text, TEXT_LENGTH)
    return _refuse("text", text, f"{problem}: change it", where) if problem else text


def _problem(text: str, length: int) -> str:
    if len(text) > length:
        return f"has {len(text)} characters, more than {length}"
    return "" if text.isprintable() else "contains characters that are not printable"


def _refuse(kind: str, text: str, problem: str, where: str) -> NoReturn:
    raise ShardError(f"{where}{': ' if where else ''}the {kind} {shown(text)} {problem}")
