"""IDRiD, "Indian Diabetic Retinopathy Image Dataset", part B: photographs with grades of diabetic retinopathy.

Porwal et al., Data 3(3):25 (2018), doi:10.3390/data3030025. Names restart in the test split, so keys begin with the
split. Some photographs occur twice, and some are also in part A, which the importer `idrid` reads.
"""

from collections import defaultdict
from pathlib import Path
from typing import Literal

from pydantic import Field

from ..errors import ShardError
from .base import Source
from .duplicates import identical_files
from .fundus import FundusImporter, FundusSettings, Photograph, find_photographs
from .grade_tables import ABSENT_IMAGES, GRADES, TASKS, graded_images, read_grades
from .id_lists import Absent
from .idrid import FOLDERS, Idrid
from .idrid_twins import FILE, TWINS, Copy, Twins, read_twins
from .partition import Partition, split_patients

PART = "B. Disease Grading"
TABLES = {
    "train": "a. IDRiD_Disease Grading_Training Labels.csv",
    "test": "b. IDRiD_Disease Grading_Testing Labels.csv",
}
COLUMNS = ("Image name", "Retinopathy grade")


class Settings(FundusSettings):
    """Settings of the importer."""

    leaks: Literal["drop", "keep"] = Field(
        default="drop", description="images that part A has in the other split: drop: leave them out; keep: keep them"
    )
    duplicates: Literal["drop", "keep"] = Field(
        default="drop",
        description="identical images: drop: one of them, that of test if there is one, without a grade if theirs "
        "differ; keep: all of them, with the grades of the table",
    )
    absent: Absent = Field(default="skip", description=ABSENT_IMAGES)
    val: float = Field(default=0.0, ge=0, lt=1, description="fraction of train to be drawn as val, by --seed")
    twins: str = Field(default="", exclude=True, description=TWINS)


class IdridGrading(FundusImporter):
    """Reads part B as published and keeps its splits, except for images that occur twice or are also in part A."""

    name = "idrid_grading"
    summary = "413 + 103 fundus photographs, five grades of diabetic retinopathy"
    licence = Idrid.licence
    source = Idrid.source
    where = "download B. Disease Grading.zip from the page of IDRiD at https://ieee-dataport.org and unpack it into RAW"
    tree = """\
RAW/B. Disease Grading/1. Original Images/{a. Training Set,b. Testing Set}/IDRiD_*.jpg
RAW/B. Disease Grading/2. Groundtruths/a. IDRiD_Disease Grading_Training Labels.csv
RAW/B. Disease Grading/2. Groundtruths/b. IDRiD_Disease Grading_Testing Labels.csv
RAW/derived_seg_to_grading.csv      not part of IDRiD: images that are also in part A, see shards/DATASETS.md;
                                    needed unless leaks=keep"""
    settings_type = Settings
    settings: Settings

    def find_splits(self) -> dict[str, Source]:
        """Return train and test as published, and val if a fraction of train is drawn."""
        assert self.raw is not None
        grades: dict[Copy, int] = {}
        images: dict[Copy, Path] = {}
        for split in FOLDERS:
            folder = self.raw / PART / "1. Original Images" / FOLDERS[split]
            table = self.raw / PART / "2. Groundtruths" / TABLES[split]
            stated, found = read_grades(table, COLUMNS), find_photographs(folder, self.note)
            grades |= {(split, name): grade for name, grade in stated.items()}
            present = graded_images(stated, found, table, folder, self.settings.absent, self.note)
            images |= {(split, name): image for name, image in present.items()}
        twins = self._twins(len(images))
        photograph = _photographs(grades, images, twins)
        kept = self._kept(grades, images, photograph, twins)
        trained = {photograph[copy] for copy in kept if copy[0] == "train"}
        drawn = split_patients(trained, Partition(self.options.seed, self.settings.val, 0))
        members: dict[str, list[Photograph]] = {"train": [], "val": [], "test": []}
        for copy, grade in kept.items():
            split = drawn[photograph[copy]] if copy[0] == "train" else copy[0]
            members[split].append(Photograph("-".join(copy), images[copy], grade))
        return {split: Source(items=found, classes=GRADES, tasks=TASKS) for split, found in members.items()}

    def _twins(self, images: int) -> Twins:
        """Return the table of twins, an empty one if there is none and leaks are accepted."""
        assert self.raw is not None
        twins = read_twins(self.raw, self.settings.twins)
        if twins is None:
            if self.settings.leaks == "drop":
                raise ShardError(
                    f"{self.raw} contains no {FILE}, so leaks between IDRiD's parts A and B cannot be excluded: name "
                    "the table with twins=FILE, or accept them with leaks=keep"
                )
            self.note("images that may also be in part A, without a table of twins (leaks=keep)", images)
        return twins or Twins({}, {}, {})

    def _kept(
        self, grades: dict[Copy, int], images: dict[Copy, Path], photograph: dict[Copy, str], twins: Twins
    ) -> dict[Copy, int | None]:
        """Map image -> grade, for the images to store."""
        copies: dict[str, list[Copy]] = defaultdict(list)
        for copy in sorted(grades):
            copies[photograph[copy]].append(copy)
        kept: dict[Copy, int | None] = {}
        for name, same in copies.items():
            present = [copy for copy in same if copy in images and not self._leaks(copy, twins.split_of.get(name))]
            if self.settings.duplicates == "keep":
                kept |= {copy: grades[copy] for copy in present}
            elif present:
                contradictory = len({grades[copy] for copy in same}) > 1
                first = min(present, key=lambda copy: (copy[0] != "test", copy))
                kept[first] = None if contradictory else grades[first]
                if contradictory:
                    self.note("images stored without a grade, since those of identical images differ")
                if len(present) > 1:
                    self.note("images identical to another one, left out", len(present) - 1)
        return kept

    def _leaks(self, copy: Copy, split: str | None) -> bool:
        """Whether an image is to be left out because part A has its photograph in the other split."""
        if split in (None, copy[0]):
            return False
        done = "kept (leaks=keep)" if self.settings.leaks == "keep" else "left out"
        self.note(f"images of {copy[0]} that part A has in {split}, {done}")
        return self.settings.leaks == "drop"


IMPORTER = IdridGrading


def _photographs(grades: dict[Copy, int], images: dict[Copy, Path], twins: Twins) -> dict[Copy, str]:
    """Map image -> name of its photograph, equal for identical images: that in part A, if it is also there.

    Both parts draw val by this name, so an image and its twin are in the same split.
    """
    found = {copy: "-".join(copy) for copy in grades}
    for name, copies in twins.copies.items():
        found |= {copy: name for copy in copies if copy in found}
    named = {"/".join(copy): copy for copy in images}
    for group in identical_files({name: images[copy] for name, copy in named.items()}):
        same = [named[name] for name in group]
        names = [found[copy] for copy in same]
        name = next((name for name in names if name in twins.copies), names[0])
        found |= dict.fromkeys(same, name)
    return found
