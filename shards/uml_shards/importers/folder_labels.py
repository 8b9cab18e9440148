"""The table labels.csv of the importer `folder`."""

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
    """What the table says, each by image name.

    Attributes:
        label: of the images that have one.
        patient: of every image; empty where the table has no such column.
        split: of every image; empty where the table has no such column.
    """

    label: Mapping[str, str]
    patient: Mapping[str, str]
    split: Mapping[str, str]


def read_labels(path: Path, images: Mapping[str, Path], folder: Path) -> Labels:
    """Read labels.csv.

    Args:
        path: of the table; without it nothing is labelled.
        images: name -> file, by `find_images`.
        folder: of the images.

    Raises:
        ShardError: columns or rows are wrong, rows name no image, or an image has no patient or split where others do.
    """
    if not path.is_file():
        return Labels({}, {}, {})
    rows = [{str(name).strip(): cell for name, cell in row.items()} for row in read_table(path)]
    columns = _columns(path, rows)
    found: dict[str, dict[str, str]] = {name: {} for name in _COLUMNS}
    strangers: list[str] = []
    files = {normal_name(file.relative_to(folder).as_posix()): name for name, file in images.items()}
    for number, row in enumerate(rows, start=2):
        cells = _cells(path, number, row, columns)
        said = normal_name(cells["image"])
        name = files.get(said) or next((form for form in (said, without_ending(said)) if form in images), None)
        if name is None:
            strangers.append(cells["image"])
            continue
        if name in found["image"]:
            raise ShardError(f"folder: {path} row {number}: a second row of image {cells['image']!r}")
        for column, cell in cells.items():
            if cell:
                found[column][name] = cell
    if strangers:
        raise ShardError(
            f"folder: {len(strangers)} rows of {path} name no image in {folder}, first {strangers[0]!r}: "
            "give the path below that folder"
        )
    for column in ("patient", "split"):
        if column in columns:
            _refuse_gaps(path, column, images, found[column])
    return Labels(found["label"], found["patient"], found["split"])


def _columns(path: Path, rows: list[dict[str, str]]) -> set[str]:
    """The columns that we know; what looks like one of them and is not is an error."""
    if not rows:
        raise ShardError(f"folder: {path} has no rows: fill it, or take it away if nothing is labelled")
    columns = set(rows[0])
    known = columns & set(_COLUMNS)
    for column in sorted(columns - known):
        near = difflib.get_close_matches(column.lower(), set(_COLUMNS) - known, n=1, cutoff=0.8)
        if near:
            raise ShardError(f"folder: {path} has a column {column!r}: did you mean {near[0]}?")
    if "image" not in known or len(known) < 2:
        raise ShardError(
            f"folder: {path} needs the columns image, and label, patient or split; it has {', '.join(sorted(columns))}"
        )
    return known


def _cells(path: Path, number: int, row: Mapping[str, str | None], columns: Iterable[str]) -> dict[str, str]:
    """The cells of a row that we know."""
    if "None" in row or None in row.values():
        raise ShardError(f"folder: {path} row {number} has more or fewer cells than the first row")
    cells = {column: str(row[column]).strip() for column in columns}
    if not cells["image"]:
        raise ShardError(f"folder: {path} row {number} names no image")
    if cells.get("label", "").lower() == "nan":
        raise ShardError(f"folder: {path} row {number}: label {cells['label']!r}: leave it empty where it is not known")
    return cells


def _refuse_gaps(path: Path, column: str, images: Mapping[str, Path], given: Mapping[str, str]) -> None:
    if missing := [str(file) for name, file in images.items() if name not in given]:
        raise ShardError(
            f"folder: {len(missing)} images have no {column} in {path}, first {missing[0]}: "
            f"a {column} is needed for all or none, since an unknown one may be in two splits"
        )
