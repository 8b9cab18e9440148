"""Read tables beside raw data: .csv, .tsv, and .xlsx with the extra `tables`."""

import csv
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ..errors import ShardError, reading


def read_table(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a table as dicts keyed by its first row. Of a workbook, the first sheet is read.

    Values of a .csv or .tsv file are text. Values of an .xlsx file keep their types, and empty rows are skipped.

    Raises:
        ShardError: the file cannot be read, has two columns of the same name, or is a workbook and openpyxl is missing.
    """
    with reading(path):
        if path.suffix.lower() == ".xlsx":
            return _read_workbook(path)
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            _refuse_twice(rows.fieldnames or (), path)
            return list(rows)


def _read_workbook(path: Path) -> list[dict[str, Any]]:
    try:
        import openpyxl
    except ModuleNotFoundError:
        raise ShardError(
            f"{path} needs openpyxl: pip install 'uml-shards[tables]', or save the sheet as .csv beside it"
        ) from None
    with closing(openpyxl.load_workbook(path, read_only=True, data_only=True)) as book:
        names, *rows = book.worksheets[0].iter_rows(values_only=True)
    _refuse_twice([name for name in names if name is not None], path)
    return [dict(zip(map(str, names), row, strict=True)) for row in rows if any(cell is not None for cell in row)]


def _refuse_twice(names: Sequence[Any], path: Path) -> None:
    """Refuse two columns of the same name, of which only one would be read."""
    stripped = [name for name in (str(name).strip() for name in names) if name]
    if twice := [name for name in stripped if stripped.count(name) > 1]:
        raise ShardError(f"{path} has two columns {twice[0]!r}: remove or rename one")
