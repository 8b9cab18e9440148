"""Read the table of labels, patients and splits of the importer `folder`."""

import difflib
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ShardError
from ..names import check_name
from ..sources.table import read_table
from ..sources.walk import is_hidden
from .folder_tree import normal_name, raw_files, without_ending
from .missing_values import is_missing, missing_codes, spellings

TABLE = "labels.csv"
"""The table that is read unless the setting `labels` names another."""

NO_TABLE = "none"
"""The value of the setting `labels` for data without a table."""

_COLUMNS = ("image", "label", "patient", "split")
_SPLITS = ("train", "val", "test")
_TABLES = (".csv", ".tsv", ".xlsx")
_OTHER_TABLES = (".xls", ".ods", ".parquet", ".feather")


@dataclass(frozen=True)
class Labels:
    """The contents of the table, by image name.

    Attributes:
        label: image name -> label, for labelled images.
        patient: image name -> patient, for all images; empty if the table has no such column.
        split: image name -> split, for all images; empty if the table has no such column.
    """

    label: Mapping[str, str]
    patient: Mapping[str, str]
    split: Mapping[str, str]


def find_table(raw: Path, setting: str) -> Path | None:
    """Return the table to read, or None if there is none.

    Args:
        raw: folder of the raw data.
        setting: path of the table relative to RAW, "none", or "" for labels.csv if it exists.

    Raises:
        ShardError: the stated table does not exist, or nothing is stated and another file may be the table.
    """
    if setting == NO_TABLE:
        return None
    if setting:
        path = raw / setting
        if not path.is_file():
            raise ShardError(f"folder: setting labels={setting}: {path} does not exist")
        if path.suffix.lower() not in _TABLES:
            raise ShardError(f"folder: setting labels={setting}: must be one of {', '.join(_TABLES)}")
        return path
    usual = raw / TABLE
    files = [path for path in raw_files(raw) if path != usual and not is_hidden(path.relative_to(raw))]
    similar = [path for path in files if _is_similar(path)]
    exists = usual.is_file()
    if similar and exists:
        raise ShardError(
            f"folder: {usual} and {similar[0]} may both be the table of labels: remove one, or state it with "
            f"--set labels={TABLE}"
        )
    tables = similar or [path for path in files if path.suffix.lower() in (*_TABLES, *_OTHER_TABLES)]
    if tables and not exists:
        first = tables[0].relative_to(raw).as_posix()
        readable = tables[0].suffix.lower() in _TABLES
        use = f"pass --set labels={first}" if readable else f"save it as {usual}"
        hint = f": did you mean {TABLE}?" if similar else " that may hold labels, patients or splits:"
        raise ShardError(
            f"folder: {usual} does not exist, but there is {tables[0]}{hint} {use}, or --set labels={NO_TABLE} to "
            "import without a table"
        )
    return usual if exists else None


def read_labels(
    path: Path | None,
    images: Mapping[str, Path],
    folder: Path,
    accepted: Collection[str] = (),
    note: Callable[[str, int], None] | None = None,
) -> Labels:
    """Read the table.

    Args:
        path: path of the table, from `find_table`; if None, no image is labelled.
        images: name -> file, from `find_images`.
        folder: folder of the images.
        accepted: labels that are classes whatever they look like, such as a class called "none".
        note: told the columns that are not used.

    Raises:
        ShardError: columns or rows are invalid, a row refers to no image, only some images have a patient or split, a
            cell holds a mark of a missing value, or values differ only in spelling.
    """
    if path is None:
        return Labels({}, {}, {})
    rows = [{str(name).strip(): cell for name, cell in row.items()} for row in read_table(path)]
    columns = _columns(path, rows)
    if note and (unused := [name for name in rows[0] if name not in columns]):
        note(f"columns of {path} not used ({', '.join(unused)})", len(unused))
    found: dict[str, dict[str, str]] = {name: {} for name in _COLUMNS}
    unknown: list[str] = []
    files = {normal_name(file.relative_to(folder).as_posix()): name for name, file in images.items()}
    for number, row in enumerate(rows, start=2):
        cells = _cells(path, number, row, columns, accepted)
        given = normal_name(cells["image"])
        name = files.get(given) or next((form for form in (given, without_ending(given)) if form in images), None)
        if name is None:
            unknown.append(cells["image"])
            continue
        if name in found["image"]:
            raise ShardError(f"folder: {path} row {number}: image {cells['image']!r} has a second row")
        for column, cell in cells.items():
            if cell:
                found[column][name] = cell
    if unknown:
        raise ShardError(
            f"folder: {len(unknown)} rows of {path} refer to no image in {folder}, first {unknown[0]!r}: "
            "give the path relative to that folder"
        )
    for column in ("patient", "split"):
        if column in columns:
            _refuse_gaps(path, column, images, found[column])
    for label in set(found["label"].values()):
        check_name(label, f"folder: {path}: label")
    _refuse_ambiguous(path, found, accepted)
    return Labels(found["label"], found["patient"], found["split"])


def _is_similar(path: Path) -> bool:
    """Whether a file is named almost like the table: labels.tsv, Label.csv, labels (1).xlsx, labels.csv.txt."""
    stem, *endings = path.name.lower().split(".")
    known = {ending.lstrip(".") for ending in (*_TABLES, *_OTHER_TABLES)} | {"txt", "json", "bak", "csv~"}
    return bool(known & set(endings)) and bool(difflib.get_close_matches(stem, ["labels"], cutoff=0.7))


def _columns(path: Path, rows: list[dict[str, Any]]) -> set[str]:
    """Return the known columns. A column whose name is similar to a known one is an error."""
    if not rows:
        raise ShardError(f"folder: {path} has no rows: fill it, or remove it if nothing is labelled")
    columns = set(rows[0])
    known = columns & set(_COLUMNS)
    for column in sorted(columns - known):
        near = difflib.get_close_matches(column.lower(), set(_COLUMNS) - known, n=1, cutoff=0.8)
        if near:
            raise ShardError(f"folder: {path} has a column {column!r}: did you mean {near[0]}?")
    if "image" not in known or len(known) < 2:
        hint = ": separate the cells by commas" if len(columns) == 1 and ";" in min(columns) else ""
        raise ShardError(
            f"folder: {path} needs the column image, and label, patient or split: it has {', '.join(sorted(columns))}"
            f"{hint}"
        )
    return known


def _cells(
    path: Path, number: int, row: Mapping[str, Any], columns: Collection[str], accepted: Collection[str]
) -> dict[str, str]:
    """Return the cells of a row in the known columns."""
    workbook = path.suffix.lower() == ".xlsx"  # in which an empty cell is None
    if "None" in row or (None in row.values() and not workbook):
        raise ShardError(f"folder: {path} row {number} has more or fewer cells than the first row")
    cells = {column: _text(row[column]) for column in columns}
    if not cells["image"]:
        raise ShardError(f"folder: {path} row {number} has no image name")
    for column, cell in cells.items():
        if column != "image" and is_missing(cell) and not (column == "label" and cell in accepted):
            remedy = f", or list it in classes= if it is a class called {cell!r}" if column == "label" else ""
            raise ShardError(
                f"folder: {path} row {number}: {column} {cell!r}: leave the cell empty if it is unknown{remedy}"
            )
    return cells


def _text(cell: Any) -> str:
    """Return the text of a cell, in Unicode's composed form. Workbooks may store 1 as 1.0."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return "" if cell is None else unicodedata.normalize("NFC", str(cell).strip())


def _refuse_gaps(path: Path, column: str, images: Mapping[str, Path], given: Mapping[str, str]) -> None:
    if missing := [str(file) for name, file in images.items() if name not in given]:
        raise ShardError(
            f"folder: {len(missing)} images have no {column} in {path}, first {missing[0]}: "
            f"give a {column} for all images or for none, since images without one could leak between splits"
        )


def _refuse_ambiguous(path: Path, found: Mapping[str, Mapping[str, str]], accepted: Collection[str]) -> None:
    """Refuse columns in which a value probably stands for a missing one, or two values probably mean the same."""
    labels = set(found["label"].values()) - set(accepted)
    if codes := missing_codes(labels):
        count = sum(label in codes for label in found["label"].values())
        raise ShardError(
            f"folder: {path}: {count} images have the label {codes[0]!r}: leave the cell empty if it means unknown, or "
            f"list all classes in classes= if {codes[0]!r} is one"
        )
    splits = set(found["split"].values())
    for column, values in (("label", labels), ("patient", found["patient"].values()), ("split", splits)):
        for same in spellings(values):
            each = " and ".join(f"{value!r}" for value in same)
            raise ShardError(
                f"folder: {path}: the values {each} of column {column} differ only in spelling: write them alike if "
                "they mean the same, or name them differently"
            )
    for split in sorted(splits):
        name = split.lower()
        near = difflib.get_close_matches(name, _SPLITS, n=1, cutoff=0.7)
        near += [usual for usual in _SPLITS if name.startswith(usual)]
        if split not in _SPLITS and name.isalpha() and near:
            raise ShardError(f"folder: {path}: split {split!r}: did you mean {near[0]}?")
