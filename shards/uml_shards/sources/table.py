"""Read tables beside raw data: .csv, .tsv, and .xlsx with the extra `tables`."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ShardError


def read_table(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a table as dicts keyed by its first row. Of a workbook, the first sheet is read.

    Values of a .csv or .tsv file are text. Values of an .xlsx file keep their types, and empty rows are skipped.

    Raises:
        ShardError: the file cannot be read, or is a workbook and openpyxl is missing.
    """
    try:
        if path.suffix.lower() == ".xlsx":
            return _read_workbook(path)
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            _refuse_repeated(reader.fieldnames or (), path)
            return list(reader)
    except ShardError:
        raise
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, KeyError) as error:
        raise ShardError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _read_workbook(path: Path) -> list[dict[str, Any]]:
    from zipfile import BadZipFile

    try:
        import openpyxl
        from openpyxl.utils.exceptions import InvalidFileException
    except ModuleNotFoundError:
        raise ShardError(
            f"{path} needs openpyxl: pip install 'uml-shards[tables]', or save the sheet as .csv beside it"
        ) from None
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (BadZipFile, InvalidFileException) as error:
        raise ShardError(f"{path} is not a workbook: {error}") from None
    names, *rows = book.worksheets[0].iter_rows(values_only=True)
    book.close()
    _refuse_repeated(names, path)
    return [dict(zip(map(str, names), row, strict=True)) for row in rows if any(cell is not None for cell in row)]


def _refuse_repeated(names: Sequence[Any], path: Path) -> None:
    """Refuse two columns of the same name, of which a row would keep only one."""
    for name in names:
        if name is not None and names.count(name) > 1:
            raise ShardError(f"{path} has two columns {name!r}: rename one of them")
