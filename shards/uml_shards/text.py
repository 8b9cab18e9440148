"""Text that others wrote, such as names in manifests and of files: made printable, and quoted for each format.

Such text may contain escape sequences of terminals, line breaks that forge messages, formulas, or markup.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import Any

MESSAGE_LENGTH = 1000
"""Longest message for users, in characters."""

_SHOWN_LENGTH = 60

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_FORMULA = re.compile(r"'*[=+\-@\uff1d\uff0b\uff0d\uff20]")  # with the wide forms of East Asian languages
_MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")  # an underscore between letters is no markup


def printable(text: str) -> str:
    """Replace every character that is not printable by its escape, such as that of a line break.

    These are control and format characters (including those that reverse the direction of text), lone surrogates, and
    all blanks except the space.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def shorten(text: str, length: int) -> str:
    """Return a text of at most this length: the middle of a longer one is replaced by an ellipsis."""
    if len(text) <= length:
        return text
    end = length // 2
    return f"{text[: length - 1 - end]}…{text[len(text) - end :]}"


def shown(name: str) -> str:
    """Return a name in quotes for a message: printable and shortened."""
    return repr(shorten(name, _SHOWN_LENGTH))


def message_of(text: object) -> str:
    """Return a text as a message: printable, on one line, and of at most 1000 characters."""
    return shorten(printable(shorten(str(text), MESSAGE_LENGTH)), MESSAGE_LENGTH)


def csv_table(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV, in printable characters.

    Cells that spreadsheets would run as formulas get a leading apostrophe, except numbers; see `csv_value`.
    """
    table = StringIO(newline="")
    csv.writer(table, lineterminator="\n").writerows([_csv_cell(printable(str(cell))) for cell in row] for row in rows)
    return table.getvalue()


def csv_value(cell: str) -> str:
    """Return the printable text for which `csv_table` wrote a cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _csv_cell(cell: str) -> str:
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def markdown(text: str) -> str:
    """Quote a text for Markdown, of which it then contains none, nor any HTML."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\g<0>", text)


def markdown_code(text: str) -> str:
    """Quote a text for Markdown as code, also for cells of tables."""
    return f"`{text}`" if text.isprintable() and not set(text) & set("`|") and text.strip() else markdown(text)
