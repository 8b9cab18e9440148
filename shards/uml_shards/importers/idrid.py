"""IDRiD, "Indian Diabetic Retinopathy Image Dataset", part A: masks of four lesions and the optic disc.

Porwal et al., Data 3(3):25 (2018), doi:10.3390/data3030025. The masks may overlap. Part B, with grades, is the importer
`idrid_grading`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from ..errors import ShardError
from ..sources.lesions import encode_lesions
from ..sources.raw import is_turned, load, open_raw
from .base import Source
from .fundus import FundusImporter, FundusSettings, Photograph, find_photographs, read_photograph
from .grade_tables import GRADES, TASKS
from .idrid_twins import TWINS, Twins, read_twins
from .partition import Partition, split_patients

PART = "A. Segmentation"
FOLDERS = {"train": "a. Training Set", "test": "b. Testing Set"}

LESIONS = {
    "microaneurysms": ("1. Microaneurysms", "MA"),
    "haemorrhages": ("2. Haemorrhages", "HE"),
    "hard_exudates": ("3. Hard Exudates", "EX"),
    "soft_exudates": ("4. Soft Exudates", "SE"),
    "optic_disc": ("5. Optic Disc", "OD"),
}
"""Mask -> its folder, and the end of its file names."""


class Settings(FundusSettings):
    """Settings of the importer."""

    optic_disc: Literal["no", "yes"] = Field(default="no", description="yes: the optic disc is a fifth mask")
    val: float = Field(default=0.0, ge=0, lt=1, description="fraction of train to be drawn as val, by --seed")
    twins: str = Field(default="", exclude=True, description=TWINS)


@dataclass(frozen=True)
class _Item(Photograph):
    """A photograph with masks: name -> file, or None where the image has no such lesion."""

    masks: Mapping[str, Path | None] = field(default_factory=dict)


class Idrid(FundusImporter):
    """Reads part A as published and keeps its splits. Grades are those of the same photographs in part B."""

    name = "idrid"
    summary = "54 + 27 fundus photographs, overlapping masks of four lesions, grades of diabetic retinopathy for most"
    licence = "CC-BY 4.0 (c) Prasanna Porwal, Samiksha Pachade and Manesh Kokare"
    source = (
        "IDRiD, https://ieee-dataport.org/open-access/indian-diabetic-retinopathy-image-dataset-idrid; cite Porwal et "
        "al., Data 3(3):25, 2018"
    )
    where = "download A. Segmentation.zip from the page of IDRiD at https://ieee-dataport.org and unpack it into RAW"
    tree = """\
RAW/A. Segmentation/1. Original Images/{a. Training Set,b. Testing Set}/IDRiD_*.jpg
RAW/A. Segmentation/2. All Segmentation Groundtruths/{a. Training Set,b. Testing Set}/1. Microaneurysms/IDRiD_*_MA.tif
    and 2. Haemorrhages/*_HE.tif, 3. Hard Exudates/*_EX.tif, 4. Soft Exudates/*_SE.tif, 5. Optic Disc/*_OD.tif;
    an image without a file has no such lesion
RAW/derived_seg_to_grading.csv      optional, not part of IDRiD: the grades, see shards/DATASETS.md"""
    settings_type = Settings
    settings: Settings

    def find_splits(self) -> dict[str, Source]:
        """Return train and test as published, and val if a fraction of train is drawn."""
        assert self.raw is not None
        names = tuple(name for name in LESIONS if name != "optic_disc" or self.settings.optic_disc == "yes")
        twins = read_twins(self.raw, self.settings.twins)
        items = {split: self._items(split, names, twins) for split in FOLDERS}
        partition = Partition(self.options.seed, self.settings.val, 0)
        drawn = split_patients((item.key for item in items["train"]), partition)
        members: dict[str, list[_Item]] = {"train": [], "val": [], "test": items["test"]}
        for item in items["train"]:
            members[drawn[item.key]].append(item)
        return {
            split: Source(items=found, classes=GRADES, mask_names=names, tasks=TASKS)
            for split, found in members.items()
        }

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        """Encode a photograph, its grade and its masks."""
        image = read_photograph(item.image)
        square = self.find_square(image)
        components = self.encode_square(item, image, square)
        side = self.side_of(square)
        masks = {name: _read_mask(path, image, item.image) for name, path in item.masks.items()}
        whole = {name: np.asarray(Image.fromarray(mask).crop(square)) for name, mask in masks.items()}
        return item.key, components | encode_lesions(whole, (side, side), self.note)

    def _items(self, split: str, names: tuple[str, ...], twins: Twins | None) -> list[_Item]:
        """Return the images of an official split, with their masks."""
        assert self.raw is not None
        folder = self.raw / PART / "1. Original Images" / FOLDERS[split]
        images = find_photographs(folder, self.note)
        if not images:
            raise ShardError(f"{folder} contains no images")
        masks = {name: self._masks(split, name, images) for name in names}
        items = []
        for name, image in sorted(images.items()):
            if twins and twins.split_of.get(name, split) != split:
                raise ShardError(f"{image} is in {split}, but the table of twins states {twins.split_of[name]}")
            grade = twins.grade.get(name) if twins else None
            if grade is None:
                contradictory = twins and twins.copies.get(name)
                self.note("images without a grade: " + ("copies differ" if contradictory else "no twin is known"))
            items.append(_Item(name, image, grade, masks={kind: found.get(name) for kind, found in masks.items()}))
        return items

    def _masks(self, split: str, name: str, images: Mapping[str, Path]) -> dict[str, Path]:
        """Map image -> its mask of a lesion."""
        assert self.raw is not None
        kind, ending = LESIONS[name]
        folder = self.raw / PART / "2. All Segmentation Groundtruths" / FOLDERS[split] / kind
        found: dict[str, Path] = {}
        for stem, path in find_photographs(folder, self.note).items():
            image = stem.removesuffix(f"_{ending}")
            if image == stem or image not in images:
                raise ShardError(f"{path} belongs to no image: name it after its image, IMAGE_{ending}")
            found[image] = path
        if absent := len(images) - len(found):
            self.note(f"images of {split} without a file of {name}: its mask is empty", absent)
        return found


IMPORTER = Idrid


def _read_mask(path: Path | None, image: Image.Image, of: Path) -> NDArray[np.uint8]:
    """Return 1 where any colour of a mask is not black, (H, W) uint8; an empty mask without a file.

    Most files have a palette of black and red, some have 0 and 1, and one is RGBA with an alpha of 255 everywhere.

    Raises:
        ShardError: the file cannot be read, or is not of the image's size.
    """
    if path is None:
        return np.zeros((image.height, image.width), np.uint8)
    opened = open_raw(path)
    if is_turned(opened, path):
        raise ShardError(f"{path}: the mask has an EXIF orientation: store its pixels upright, without orientation")
    if opened.size != image.size:
        size = f"{opened.height}x{opened.width}, but the image {of} is {image.height}x{image.width}"
        raise ShardError(f"{path}: the mask is {size}: they must be equal")
    load(opened, path)
    if opened.mode == "P":
        palette = np.asarray(opened.getpalette("RGB")).reshape(-1, 3)
        marked = np.zeros(256, np.uint8)
        marked[: len(palette)] = palette.max(axis=1) > 0
        return marked[np.asarray(opened)]
    if opened.mode not in ("1", "L", "LA", "RGB", "RGBA"):
        raise ShardError(f"{path}: mask mode {opened.mode} is not supported: store it as 8-bit grey")
    colours = [np.asarray(opened.getchannel(band)) for band in opened.getbands() if band != "A"]
    return np.any([colour != 0 for colour in colours], axis=0).astype(np.uint8)
