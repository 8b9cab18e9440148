"""Messidor: 1200 photographs of the fundus of three hospitals, with grades of diabetic retinopathy.

Decencière et al., Image Analysis & Stereology 33(3), 2014, doi:10.5566/ias.1155. Its four grades are defined by the
number of microaneurysms and haemorrhages and by new vessels, unlike those of the international scale. Messidor-2 is
another data set.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from ..errors import ShardError
from ..sources.walk import walk_files
from . import messidor_errata
from .base import Source
from .fundus import FundusImporter, FundusSettings, Photograph, find_photographs
from .grade_tables import ABSENT_IMAGES, GRADES, TASKS, graded_images, read_grades
from .id_lists import Absent
from .partition import Partition, split_patients

BASES = tuple(f"Base{hospital}{part}" for hospital in (1, 2, 3) for part in (1, 2, 3, 4))
COLUMNS = ("Image name", "Retinopathy grade")
HIGHEST = 3

_TABLE = re.compile(r"Annotation[ _](Base\d\d)(?:_update\d+)?\.(?:csv|tsv|xlsx?)", re.IGNORECASE)
"""Name of a table; updates contain some of the corrections."""


class Settings(FundusSettings):
    """Settings of the importer."""

    classes: Literal["international", "own"] = Field(
        default="international",
        description="names of the grades: international: those of the other data sets, so that their graders can be "
        "evaluated by the binary tasks; own: grade_0 to grade_3",
    )
    errata: Literal["apply", "ignore"] = Field(
        default="apply", description="apply: correct 4 grades and leave out 13 copies; ignore: as the tables state"
    )
    absent: Absent = Field(default="error", description=ABSENT_IMAGES)
    test: float = Field(
        default=1.0, description="fraction of the images for testing; without val, the others are train"
    )
    val: float = Field(default=0.0, description="fraction of the images for validation")


class Messidor(FundusImporter):
    """Reads the twelve bases. All images are in test, unless splits are drawn."""

    name = "messidor"
    summary = "1200 fundus photographs, four grades of diabetic retinopathy, normal or not, referable or not"
    licence = "for research and education only, free of charge; do not pass on"
    source = "kindly provided by the Messidor program partners; cite Decencière et al., Image Anal Stereol 33(3), 2014"
    where = "ask for it at https://www.adcis.net/en/third-party/messidor, and unpack each base into RAW/BaseXY"
    tree = """\
RAW/Base11/**/*.tif, and so on: Base11 to 14, 21 to 24, 31 to 34; bases that are not there are counted
RAW/**/Annotation_BaseXY.csv or .xlsx      saved from the .xls; columns "Image name" and "Retinopathy grade\""""
    settings_type = Settings
    settings: Settings

    def find_splits(self) -> dict[str, Source]:
        """Return test, and train and val if they are drawn."""
        assert self.raw is not None
        tables = _tables(self.raw)
        photographs: list[Photograph] = []
        for base in BASES:
            if (self.raw / base).is_dir() or base in tables:
                photographs += self._photographs(base, tables.get(base, []))
            else:
                self.note("bases that are not in RAW")
        if not photographs:
            raise ShardError(f"{self.raw} contains none of Base11 to Base34 (`shards.py datasets` prints the tree)")
        given = self.settings
        split_of = split_patients((one.key for one in photographs), Partition(self.options.seed, given.val, given.test))
        own = given.classes == "own"
        classes = tuple(f"grade_{number}" for number in range(HIGHEST + 1)) if own else GRADES
        tasks = {name: tuple(one for one in positive if one < len(classes)) for name, positive in TASKS.items()}
        return {
            split: Source([one for one in photographs if split_of[one.key] == split], classes=classes, tasks=tasks)
            for split in ("train", "val", "test")
        }

    def _photographs(self, base: str, tables: Sequence[Path]) -> list[Photograph]:
        """Return the images of a base, without the copies that the errata name."""
        assert self.raw is not None
        folder, table = self.raw / base, _readable(base, tables)
        grades = read_grades(table, COLUMNS, HIGHEST)
        images = find_photographs(folder, self.note, beside=tables)
        if self.settings.errata == "apply":
            images = {name: path for name, path in images.items() if name not in messidor_errata.COPIES.get(base, ())}
            grades = self._corrected(base, grades, table)
        images = graded_images(grades, images, table, folder, self.settings.absent, self.note)
        return [Photograph(f"{base}_{name}", image, grades[name]) for name, image in images.items()]

    def _corrected(self, base: str, grades: Mapping[str, int], table: Path) -> dict[str, int]:
        """Return grades corrected by the errata, without the copies that they name."""
        found = dict(grades)
        for name in messidor_errata.COPIES.get(base, ()):
            if found.pop(name, None) is not None:
                self.note("copies of other images, left out by the errata")
        for (where, name), (former, right) in messidor_errata.CORRECTIONS.items():
            if where != base or name not in found:
                continue
            if found[name] not in (former, right):
                raise ShardError(
                    f"{table}: image {name} has grade {found[name]}, but the errata correct {former} to {right}: use "
                    "the table as published, or errata=ignore"
                )
            if found[name] == former:
                self.note("grades corrected by the errata")
            found[name] = right
        return found


IMPORTER = Messidor


def _tables(raw: Path) -> dict[str, list[Path]]:
    """Map base -> its tables."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in walk_files(raw):
        if match := _TABLE.fullmatch(path.name):
            found[match[1].capitalize()].append(path)
    return found


def _readable(base: str, tables: Sequence[Path]) -> Path:
    """Return the one table of a base that can be read; it may lie beside the .xls from which it was saved."""
    if not tables:
        raise ShardError(f"RAW contains {base}, but no table Annotation_{base}: add it, as .csv or .xlsx")
    found = [path for path in tables if path.suffix.lower() != ".xls"]
    if not found:
        raise ShardError(f"{tables[0]} is in Excel's old format, which is not read: save it as .csv or .xlsx beside it")
    if len(found) > 1:
        raise ShardError(f"{found[0]} and {found[1]} are two tables of {base}: keep one")
    return found[0]
