"""BraTS 2019: MRI of brains with gliomas, skull-stripped, with the tumour and its grade.

Menze et al., IEEE Transactions on Medical Imaging 34 (2015), doi:10.1109/TMI.2014.2377694. The importer takes one
modality, crops it to the brain and standardises it by the brain's voxels.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..errors import ShardError
from ..sources.volume_files import Volume, read_numbers, read_volume, refuse_other_place
from ..sources.volume_preparing import Preparation, Spacing, cropped, encode_prepared, standardised
from .base import Importer, Options, Source
from .folder_tree import note_unused, raw_files
from .id_lists import ABSENT, Absent, read_splits
from .partition import draw_shares

SHARES = {"train": 250 / 335, "val": 25 / 335, "test": 60 / 335}
"""Shares of the splits without lists: those of SSL4MIS, in each grade."""

GRADES = ("LGG", "HGG")

_FILE = re.compile(r"(.+)_(flair|t1|t1ce|t2|seg)\.nii(?:\.gz)?")
_CLASSES = {0: 0, 1: 1, 2: 2, 4: 3}
"""Original value of a mask -> class."""


class Settings(BaseModel):
    """Settings of the importer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: Literal["flair", "t1", "t1ce", "t2"] = Field(default="flair", description="flair, t1, t1ce or t2")
    target: Literal["whole", "labels"] = Field(
        default="whole", description="whole: the whole tumour; labels: its three parts, 1, 2 and 4, as 1, 2 and 3"
    )
    background: Literal["zero", "shifted"] = Field(
        default="zero",
        description="voxels outside of the brain: zero: 0; shifted: standardised like the others, so a negative "
        "constant, as in the release of UG-MCL",
    )
    clip: float | None = Field(
        default=None,
        gt=50,
        le=100,
        description="percentile of the brain's voxels to which higher values are clipped, 99.9 in the release; empty: "
        "no clipping",
    )
    spacing: Spacing = Field(default=(), description="voxel size in mm along x, y, z to resample to; empty: as stored")
    lists: str = Field(
        default="",
        exclude=True,
        description="folder of train.txt, val.txt and test.txt, one id per line; empty: drawn by --seed, "
        "250 : 25 : 60 in each grade",
    )
    absent: Absent = Field(default="error", description=ABSENT)

    @field_validator("clip", mode="before")
    @classmethod
    def _empty_is_none(cls, given: Any) -> Any:
        return None if given == "" else given


@dataclass(frozen=True)
class _Item:
    key: str
    image: Path
    mask: Path | None
    label: int | None


class Brats2019(Importer):
    """Reads the training data; the grade of a glioma is its label. The keys of samples are the ids of the cases."""

    name = "brats2019"
    summary = "335 MRI volumes of gliomas of high and low grade, with the tumour"
    licence = "for registered participants of the challenge only: see the terms there, do not pass on"
    source = "BraTS 2019; cite Menze et al., IEEE TMI 34, 2015, and Bakas et al., Scientific Data 4, 2017"
    where = "register at https://www.med.upenn.edu/cbica/brats2019, and unpack the training data into RAW"
    tree = """\
RAW/MICCAI_BraTS_2019_Data_Training/{HGG,LGG}/<id>/<id>_{flair,t1,t1ce,t2,seg}.nii.gz    or .nii
RAW may also be the folder of HGG and LGG; a case without _seg is not segmented, one outside of HGG and LGG has no label
needs the extra volumes"""
    default_size = 0
    settings_type = Settings
    settings: Settings

    def __init__(self, raw: str | Path | None = None, options: Options | None = None) -> None:
        super().__init__(raw, options)
        self.refuse_size()

    def splits(self) -> dict[str, Source]:
        """Return the splits of the lists, or train, val and test drawn with the same shares of each grade.

        Raises:
            ShardError: there are no cases, a file is missing, or lists and cases do not match.
        """
        try:
            items = self._items()
            members = self._members(items)
        except ShardError as error:
            raise ShardError(f"brats2019: {error}") from None
        names = ("oedema", "enhancing tumour")
        classes = ("whole tumour",) if self.settings.target == "whole" else ("necrotic core", *names)
        return {
            split: Source(
                items=[items[one] for one in ids],
                classes=GRADES,
                mask_classes=("background", *classes),
                tasks={"HGG": (1,)},
            )
            for split, ids in members.items()
            if ids
        }

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        """Encode one modality of a case, cropped to the brain, and its mask."""
        given = self.settings
        image = read_volume(item.image)
        if image.values.ndim != 3:
            raise ShardError(f"{item.image} has {image.values.shape[3]} channels, but must have one")
        mask = _read_mask(item.mask, image, item.image, given.target) if item.mask else None
        image, low, high = prepared_brain(image, given.clip, given.background, item.image)
        if mask is not None:
            inside = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
            if mask[inside].astype(bool).sum() < mask.astype(bool).sum():
                self.note("masks cut, as they reach beyond the brain")
            mask = np.ascontiguousarray(mask[inside])
        how = Preparation(given.spacing)
        return item.key, encode_prepared(image, mask, how, item.image, item.label, self.note)

    def _items(self) -> dict[str, _Item]:
        """Map id -> case."""
        assert self.raw is not None
        files: dict[str, dict[str, Path]] = {}
        unused = []
        for path in raw_files(self.raw):
            match = None if path.name.startswith(".") else _FILE.fullmatch(path.name)
            if match is None:
                unused.append(path)
                continue
            if (other := files.setdefault(match[1], {}).setdefault(match[2], path)) != path:
                raise ShardError(f"{other} and {path} are the same file of a case: remove one")
        note_unused(self.raw, unused, self.note)
        if not files:
            raise ShardError(f"{self.raw} contains no <id>_flair.nii.gz (`shards.py datasets` prints the tree)")
        modality = self.settings.modality
        if without := sorted(name for name, parts in files.items() if modality not in parts):
            first = next(iter(files[without[0]].values())).parent
            raise ShardError(f"{len(without)} cases have no {modality}, first {first}: complete the data")
        return {name: _Item(name, found[modality], found.get("seg"), _grade(found)) for name, found in files.items()}

    def _members(self, items: Mapping[str, _Item]) -> dict[str, list[str]]:
        """Return the ids of each split."""
        if not self.settings.lists:
            grades = {name: -1 if item.label is None else item.label for name, item in items.items()}
            split_of = draw_shares(grades, SHARES, self.options.seed, "brats2019", "splits")
            return {split: sorted(name for name in items if split_of[name] == split) for split in SHARES}
        folder = Path(self.settings.lists)
        lists = {split: folder / f"{split}.txt" for split in SHARES if (folder / f"{split}.txt").is_file()}
        if "train" not in lists:
            raise ShardError(f"setting lists: {folder} contains no train.txt: name the folder of the lists")
        return read_splits(lists, items, self.settings.absent, self.note)


IMPORTER = Brats2019


def prepared_brain(
    image: Volume, clip: float | None, background: str, path: Path
) -> tuple[Volume, list[int], list[int]]:
    """Return a modality cropped to the brain and standardised, and the box of the crop.

    Args:
        image: volume (H, W, D).
        clip: percentile of the brain's values to which larger ones are cut; None cuts none.
        background: "zero" sets the voxels outside of the brain to 0.
        path: path of the volume, for error messages.

    Returns:
        The volume, the first voxel of the box, and the one after its last.

    Raises:
        ShardError: all voxels are 0, or those of the brain are equal.
    """
    low, high = _brain_box(image.values, path)
    image = cropped(image, low, high)
    brain = image.values != 0
    if clip is not None:
        most = np.percentile(image.values[brain], clip)
        image = Volume(np.minimum(image.values, most), image.affine, image.stated)
    image = standardised(image, brain, path)
    if background == "zero":
        image = Volume(np.where(brain, image.values, np.float32(0)), image.affine, image.stated)
    return image, low, high


def _grade(files: Mapping[str, Path]) -> int | None:
    """Return the label of a case by its folder; None if it is in neither."""
    parts = next(iter(files.values())).parts
    return next((GRADES.index(part) for part in reversed(parts) if part in GRADES), None)


def _brain_box(values: NDArray[Any], path: Path) -> tuple[list[int], list[int]]:
    """Return the first voxel of the box of all voxels that are not 0, and the one after its last."""
    brain = values != 0
    sides = [np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if not len(sides[0]):
        raise ShardError(f"{path}: all voxels are 0: remove the case, or restore the file")
    return [int(side[0]) for side in sides], [int(side[-1]) + 1 for side in sides]


def _read_mask(path: Path, image: Volume, image_path: Path, target: str) -> NDArray[np.uint8]:
    mask = read_numbers(path)
    refuse_other_place(mask, path, image, image_path)
    wrong = mask.values[~np.isin(mask.values, list(_CLASSES))]
    if wrong.size:
        raise ShardError(f"{path}: mask value {wrong[0]} is not one of 0, 1, 2 and 4: use the original file")
    if target == "whole":
        return (mask.values > 0).astype(np.uint8)
    return np.select([mask.values == value for value in _CLASSES], list(_CLASSES.values())).astype(np.uint8)
