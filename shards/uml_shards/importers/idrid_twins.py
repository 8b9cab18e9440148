"""The table of twins: which images of IDRiD's parts A and B are the same photograph.

Both parts contain some of the same photographs under different names, and one's test images among the other's training
images. IDRiD does not state which: the table is made by comparing the images. It has a row for each image of part A.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ShardError
from .grade_tables import read_grade, read_rows

FILE = "derived_seg_to_grading.csv"

TWINS = f"table of the images that parts A and B share; empty: RAW/{FILE}, if there is one"
"""Description of a setting with the path of the table."""

COLUMNS = ("seg_image", "seg_split", "grading_split", "grading_image", "dr_grade", "note")
SPLITS = {"a": "train", "b": "test"}
"""Letter of a part's folder -> split."""

_COPY = re.compile(r"exact duplicate (train|test)\|(\w+) with labels (\d+)/\d+")

Copy = tuple[str, str]
"""Split and name of an image of part B."""


@dataclass(frozen=True)
class Twins:
    """What the table states, by the name of an image of part A.

    Attributes:
        split_of: its split in part A.
        copies: the same photograph in part B, several times if part B contains it so; () if it does not.
        grade: its grade in part B; None without copies, or if they have different grades.
    """

    split_of: Mapping[str, str]
    copies: Mapping[str, tuple[Copy, ...]]
    grade: Mapping[str, int | None]


def read_twins(raw: Path, given: str) -> Twins | None:
    """Read the table; None if no file is given and RAW contains none.

    Raises:
        ShardError: the table cannot be read, or a row is invalid.
    """
    table = Path(given) if given else raw / FILE
    if not given and not table.is_file():
        return None
    split_of: dict[str, str] = {}
    copies: dict[str, tuple[Copy, ...]] = {}
    grade: dict[str, int | None] = {}
    for where, (image, letter, split, name, stated, note) in read_rows(table, COLUMNS):
        if image in split_of or letter not in SPLITS:
            problem = "has a second row" if image in split_of else f"has seg_split {letter!r}: must be a or b"
            raise ShardError(f"{where}: image {image} {problem}")
        split_of[image] = SPLITS[letter]
        found = _copies(where, split, name, stated, note)
        copies[image] = tuple(found)
        grades = set(found.values())
        grade[image] = grades.pop() if len(grades) == 1 else None
    return Twins(split_of, copies, grade)


def _copies(where: str, split: str, name: str, grade: str, note: str) -> dict[Copy, int]:
    """Return the images of part B in a row, with their grades. The note names a second one."""
    if not name:
        return {}
    if split not in SPLITS.values():
        raise ShardError(f"{where}: grading_split {split!r} must be train or test")
    found = {(split, name): read_grade(grade, where)}
    if "duplicate" in note:
        if (copy := _COPY.search(note)) is None:
            raise ShardError(f"{where}: note {note!r}: must be 'exact duplicate SPLIT|IMAGE with labels GRADE/RISK'")
        found[copy[1], copy[2]] = read_grade(copy[3], where)
    return found
