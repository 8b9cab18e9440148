"""Read the table labels.csv of the importer `folder`."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ShardError
from ..sources.table import read_table
from .folder_tree import normal_name, without_ending

_COLUMNS = ("image", "label", "patient", "split")


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


def read_labels(path: Path, images: Mapping[str, Path], folder: Path) -> Labels:
    """Read labels.csv.

    Args:
        path: path of the table; if it does not exist, no image is labelled.
        images: name -> file, from `find_images`.
        folder: folder of the images.

    Raises:
        ShardError: columns or rows are invalid, a row refers to no image, or only some images have a patient or split.
    """
    if not path.is_file():
        return Labels({}, {}, {})
    rows = [{str(name).strip(): cell for name, cell in row.items()} for row in read_table(path)]
    columns = _columns(path, rows)
    found: dict[str, dict[str, str]] = {name: {} for name in _COLUMNS}
    unknown: list[str] = []
    files = {normal_name(file.relative_to(folder).as_posix()): name for name, file in images.items()}
    for number, row in enumerate(rows, start=2):
        cells = _cells(path, number, row, columns)
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
    return Labels(found["label"], found["patient"], found["split"])


def _columns(path: Path, rows: list[dict[str, str]]) -> set[str]:
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
        raise ShardError(
            f"folder: {path} needs the column image, and label, patient or split: it has {', '.join(sorted(columns))}"
        )
    return known


def _cells(path: Path, number: int, row: Mapping[str, str | None], columns: Iterable[str]) -> dict[str, str]:
    """Return the cells of a row in the known columns."""
    if "None" in row or None in row.values():
        raise ShardError(f"folder: {path} row {number} has more or fewer cells than the first row")
    cells = {column: str(row[column]).strip() for column in columns}
    if not cells["image"]:
        raise ShardError(f"folder: {path} row {number} has no image name")
    if cells.get("label", "").lower() == "nan":
        raise ShardError(
            f"folder: {path} row {number}: label {cells['label']!r}: leave the cell empty if it is unknown"
        )
    return cells


def _refuse_gaps(path: Path, column: str, images: Mapping[str, Path], given: Mapping[str, str]) -> None:
    if missing := [str(file) for name, file in images.items() if name not in given]:
        raise ShardError(
            f"folder: {len(missing)} images have no {column} in {path}, first {missing[0]}: "
            f"give a {column} for all images or for none, since images without one could leak between splits"
        )
