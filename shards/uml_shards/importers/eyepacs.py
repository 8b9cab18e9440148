"""EyePACS, the photographs of Kaggle's competition "Diabetic Retinopathy Detection" of 2015, with grades.

Each patient has a photograph of the left and of the right eye. The grades of the test images were released after the
competition, in `retinopathy_solution.csv`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from ..errors import ShardError
from .base import Source
from .fundus import FundusImporter, FundusSettings, Photograph, find_photographs
from .grade_tables import ABSENT_IMAGES, GRADES, TASKS, graded_images, read_grades, read_rows
from .id_lists import Absent
from .partition import Partition, refuse_shared, split_patients

TRAIN, TEST = "trainLabels.csv", "retinopathy_solution.csv"
USAGES = ("Public", "Private")

_NAME = re.compile(r"(\d+)_(left|right)")


class Settings(FundusSettings):
    """Settings of the importer."""

    val: float = Field(default=0.1, ge=0, lt=1, description="fraction of the patients of train to be drawn as val")
    public: Literal["test", "val"] = Field(
        default="test", description="test images of Usage Public: test: as the others; val: they are val, none is drawn"
    )
    absent: Absent = Field(default="error", description=ABSENT_IMAGES)

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        if self.public == "val" and "val" in self.model_fields_set:
            raise ValueError("val has no effect with public=val: remove val")
        return self


class Eyepacs(FundusImporter):
    """Reads the competition's files. Both eyes of a patient are in one split, and their json has the patient."""

    name = "eyepacs"
    summary = "35126 + 53576 fundus photographs of both eyes of patients, five grades of diabetic retinopathy"
    licence = "under the rules of the competition, which are to be accepted on its page: do not pass on"
    source = "Kaggle Diabetic Retinopathy Detection, 2015, images of EyePACS; cite its page at kaggle.com"
    where = "join https://www.kaggle.com/c/diabetic-retinopathy-detection, and unpack its archives into RAW"
    tree = """\
RAW/train/<patient>_{left,right}.jpeg, RAW/trainLabels.csv (image, level)
RAW/test/<patient>_{left,right}.jpeg, RAW/retinopathy_solution.csv (image, level, Usage)      optional"""
    settings_type = Settings
    settings: Settings

    def find_splits(self) -> dict[str, Source]:
        """Return train, val drawn from it by patient or made of the public test images, and test."""
        assert self.raw is not None
        trained = self._photographs("train", TRAIN)
        test: dict[str, Photograph] = {}
        public: frozenset[str] = frozenset()
        if (self.raw / "test").is_dir() or (self.raw / TEST).is_file():
            test = self._photographs("test", TEST)
            public = _public(self.raw / TEST)
        validated = {name for name in test if name in public and self.settings.public == "val"}
        if self.settings.public == "val" and not validated:
            raise ShardError(f"{self.raw} contains no test images of Usage Public: remove public=val")
        share = 0 if validated else self.settings.val
        split_of = split_patients(map(_patient, trained), Partition(self.options.seed, share, 0))
        members: dict[str, list[Photograph]] = {"train": [], "val": [], "test": []}
        for name, one in trained.items():
            members[split_of[_patient(name)]].append(one)
        for name, one in test.items():
            members["val" if name in validated else "test"].append(one)
        refuse_shared({split: [one.meta["patient"] for one in found] for split, found in members.items()})
        return {split: Source(items=found, classes=GRADES, tasks=TASKS) for split, found in members.items()}

    def _photographs(self, part: str, file: str) -> dict[str, Photograph]:
        """Map name -> photograph, for the images of a folder, with the grades of a table."""
        assert self.raw is not None
        folder, table = self.raw / part, self.raw / file
        grades = read_grades(table, ("image", "level"))
        _refuse_names(grades, table)
        images = graded_images(
            grades, find_photographs(folder, self.note), table, folder, self.settings.absent, self.note
        )
        return {
            name: Photograph(name, image, grades[name], {"patient": _patient(name)}) for name, image in images.items()
        }


IMPORTER = Eyepacs


def _patient(name: str) -> str:
    return name.partition("_")[0]


def _refuse_names(names: Mapping[str, int], table: Path) -> None:
    """Refuse images whose patient is not known by their names."""
    if strange := [name for name in names if not _NAME.fullmatch(name)]:
        raise ShardError(f"{table}: image {strange[0]!r} must be named PATIENT_left or PATIENT_right")


def _public(table: Path) -> frozenset[str]:
    """Return the test images of Usage Public."""
    found = set()
    for where, (name, usage) in read_rows(table, ("image", "Usage")):
        if usage not in USAGES:
            raise ShardError(f"{where}: Usage {usage!r} must be {' or '.join(USAGES)}")
        if usage == USAGES[0]:
            found.add(name)
    return frozenset(found)
