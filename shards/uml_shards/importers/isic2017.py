"""ISIC 2017, "Skin Lesion Analysis Toward Melanoma Detection": dermoscopy with lesion masks and three classes.

Codella et al., ISBI 2018, arXiv:1710.05006. The challenge provides two binary labels, melanoma and seborrheic
keratosis. An image with neither is a nevus, which gives three classes. The two official tasks are kept for evaluation.
"""

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..errors import ShardError, reading
from ..sources.encode import encode_file, encode_grey, encode_json, read_binary_mask
from .base import Importer, Source
from .duplicates import DUPLICATES, Duplicates, without_copies

_SPLITS = {"train": "Training", "val": "Validation", "test": "Test_v2"}
_COLUMNS = ("image_id", "melanoma", "seborrheic_keratosis")


class Settings(BaseModel):
    """Settings of the importer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    duplicates: Duplicates = Field(default="keep", description=DUPLICATES)


@dataclass(frozen=True)
class _Item:
    key: str
    image: Path
    mask: Path
    label: int


class Isic2017(Importer):
    """Reads the challenge's folder layout and keeps the official splits. Images are resized to a square."""

    name = "isic2017"
    summary = "2000 + 150 (+ 600 test) dermoscopy images, lesion masks, nevus / melanoma / seborrheic keratosis"
    licence = "not stated with the files; the ISIC archive is generally reported to give the 2017 challenge as CC-0"
    source = (
        "ISIC 2017 challenge, https://challenge.isic-archive.com/data/#2017; cite Codella et al., Skin Lesion Analysis "
        "Toward Melanoma Detection, ISBI 2018, arXiv:1710.05006"
    )
    where = "download the 2017 challenge from https://challenge.isic-archive.com/data/#2017 and unpack it into RAW"
    tree = """\
RAW/ISIC-2017_Training_Data/ISIC_*.jpg
RAW/ISIC-2017_Training_Part1_GroundTruth/ISIC_*_segmentation.png
RAW/ISIC-2017_Training_Part3_GroundTruth.csv
RAW/ISIC-2017_Validation_Data/...       and so on, as for Training
RAW/ISIC-2017_Test_v2_Data/...          and so on; optional"""
    default_size = 256
    settings_type = Settings
    settings: Settings

    def splits(self) -> dict[str, Source]:
        """Return train and val, and test if its images are present.

        Raises:
            ShardError: a folder, file, column or label is missing or invalid.
        """
        assert self.raw is not None
        items = {
            split: _items(self.raw, official)
            for split, official in _SPLITS.items()
            if split != "test" or (self.raw / f"ISIC-2017_{official}_Data").is_dir()
        }
        kept = self._without_copies(items)
        return {
            split: Source(
                items=[item for item in members if f"{split}/{item.key}" in kept],
                classes=("nevus", "melanoma", "seborrheic_keratosis"),
                mask_classes=("background", "lesion"),
                tasks={"melanoma": (1,), "seborrheic_keratosis": (2,)},
            )
            for split, members in items.items()
        }

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        """Encode image, mask and label of one lesion."""
        extension, image, size = encode_file(item.image, self.size, self.options.lossless)
        mask = encode_grey(read_binary_mask(item.mask, size))
        return item.key, {extension: image, "mask.png": mask, "json": encode_json(item.label)}

    def _without_copies(self, items: Mapping[str, Sequence[_Item]]) -> Collection[str]:
        """Return <split>/<key> of the items to use. One image of train is also in val."""
        every = [(f"{split}/{item.key}", split, item) for split, members in items.items() for item in members]
        split_of = {name: split for name, split, _ in every}
        labels = {name: item.label for name, _, item in every}
        images = {name: item.image for name, _, item in every}
        try:
            return without_copies(images, split_of, labels, self.settings.duplicates, self.note)
        except ShardError as error:
            raise ShardError(f"isic2017: {error}") from None


IMPORTER = Isic2017


def _items(raw: Path, official: str) -> list[_Item]:
    prefix = raw / f"ISIC-2017_{official}"
    images = _files(Path(f"{prefix}_Data"), ".jpg")
    masks = _files(Path(f"{prefix}_Part1_GroundTruth"), "_segmentation.png")
    table = Path(f"{prefix}_Part3_GroundTruth.csv")
    labels = _labels(table)
    for what, where, found in (("image", f"{prefix}_Data", images), ("mask", f"{prefix}_Part1_GroundTruth", masks)):
        if missing := sorted(labels.keys() - found.keys()):
            raise ShardError(
                f"isic2017: {len(missing)} rows of {table.name} have no {what} in {where}, first {missing[0]}"
            )
        if surplus := sorted(found.keys() - labels.keys()):
            raise ShardError(f"isic2017: {len(surplus)} {what}s in {where} are not in {table.name}, first {surplus[0]}")
    return [_Item(key, images[key], masks[key], labels[key]) for key in sorted(labels)]


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """Map key -> file for all files with a suffix. The folder may also contain a csv file and superpixels."""
    if not folder.is_dir():
        raise ShardError(f"isic2017: folder {folder} is missing (`shards.py datasets` prints the tree)")
    return {path.name.removesuffix(ending): path for path in folder.iterdir() if path.name.endswith(ending)}


def _labels(table: Path) -> dict[str, int]:
    with reading(f"isic2017: {table}"), table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not set(_COLUMNS) <= set(reader.fieldnames or ()):
            raise ShardError(f"isic2017: {table} needs the columns {', '.join(_COLUMNS)}")
        rows = [[row[column] for column in _COLUMNS] for row in reader]
    if not rows:
        raise ShardError(f"isic2017: {table} has no rows")
    labels: dict[str, int] = {}
    for number, (key, *flags) in enumerate(rows, start=2):
        values = [{"0": 0, "0.0": 0, "1": 1, "1.0": 1}.get(flag or "") for flag in flags]
        if key in labels or None in values or values == [1, 1]:
            reason = "the image has a second row" if key in labels else f"labels {flags} must be 0 or 1, and not both 1"
            raise ShardError(f"isic2017: {table} line {number}: {key}: {reason}")
        labels[key] = values.index(1) + 1 if 1 in values else 0
    return labels
