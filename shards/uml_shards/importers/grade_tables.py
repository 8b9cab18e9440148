"""Read the tables that state grades of diabetic retinopathy, and match them to images."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import ShardError
from ..sources.table import read_table
from .folder_tree import Note, without_ending
from .id_lists import Absent

GRADES = ("no_dr", "mild", "moderate", "severe", "proliferative")
"""The International Clinical Diabetic Retinopathy scale (Wilkinson et al., Ophthalmology 110, 2003), from 0."""

TASKS = {"abnormal": (1, 2, 3, 4), "referable": (2, 3, 4)}
"""Binary tasks: any retinopathy, and retinopathy that needs a referral."""

ABSENT_IMAGES = "rows of a table without an image in RAW: error; skip: take the others, and count them"
"""Description of a setting of type `Absent`."""


def read_rows(table: Path, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the place of each row, for error messages, and its cells in these columns, as text without blanks around.

    Rows in which all of these cells are empty are skipped.

    Raises:
        ShardError: the table cannot be read, lacks a column, or has no rows.
    """
    if not table.is_file():
        raise ShardError(f"{table} is missing (`shards.py datasets` prints the tree)")
    empty = True
    for number, row in enumerate(read_table(table), start=2):
        cells = {str(name).strip(): "" if value is None else str(value).strip() for name, value in row.items()}
        if missing := [column for column in columns if column not in cells]:
            raise ShardError(f"{table} has no column {missing[0]!r}: it needs {', '.join(columns)}")
        if any(found := [cells[column] for column in columns]):
            empty = False
            yield f"{table} line {number}", found
    if empty:
        raise ShardError(f"{table} has no rows")


def read_grades(table: Path, columns: tuple[str, str], highest: int = 4) -> dict[str, int]:
    """Map name of an image, without extension -> grade.

    Args:
        table: the table.
        columns: those of the image and of its grade.
        highest: the highest grade; the lowest is 0.

    Raises:
        ShardError: the table cannot be read, a grade is invalid, or an image has two rows.
    """
    grades: dict[str, int] = {}
    for where, (image, grade) in read_rows(table, columns):
        name = without_ending(image)
        if not name:
            raise ShardError(f"{where}: the name of the image is empty")
        if name in grades:
            raise ShardError(f"{where}: image {name} has a second row: remove one")
        grades[name] = read_grade(grade, where, highest)
    return grades


def read_grade(text: str, where: str, highest: int = 4) -> int:
    """Return a grade from 0 to the highest one.

    Raises:
        ShardError: the text is anything else; the message begins with `where`.
    """
    plain = text.removesuffix(".0")  # spreadsheets write integers so
    if not (plain.isascii() and plain.isdecimal() and int(plain) <= highest):
        raise ShardError(f"{where}: grade {text!r} must be an integer from 0 to {highest}")
    return int(plain)


def graded_images(
    grades: Mapping[str, int], images: Mapping[str, Path], table: Path, folder: Path, absent: Absent, note: Note
) -> dict[str, Path]:
    """Map name -> image, for the images that are there and have a grade, in the order of the names.

    Args:
        grades: name -> grade, from the table.
        images: name -> image, from the folder.
        table: the table, for messages.
        folder: the folder, for messages.
        absent: "error" refuses rows without an image; "skip" leaves them out.
        note: told how many rows have no image.

    Raises:
        ShardError: images have no row, rows have no image, or no row has one.
    """
    if surplus := sorted(images.keys() - grades.keys()):
        raise ShardError(f"{len(surplus)} images in {folder} are not in {table}, first {images[surplus[0]]}")
    missing = sorted(grades.keys() - images.keys())
    if missing and (absent == "error" or len(missing) == len(grades)):
        hint = ", or use absent=skip to take the others" if images else ""
        raise ShardError(
            f"{len(missing)} of the {len(grades)} images in {table} are not in {folder}, first {missing[0]}: complete "
            f"the data{hint}"
        )
    if missing:
        note(f"images of {table.name} that are not in RAW, first {missing[0]}", len(missing))
    return dict(sorted(images.items()))
