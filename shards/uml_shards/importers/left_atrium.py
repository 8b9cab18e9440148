"""The 2018 Left Atrium challenge: late gadolinium-enhanced MRI of the heart, with the cavity of the left atrium.

Xiong et al., Medical Image Analysis 67 (2021), doi:10.1016/j.media.2020.101832. Two layouts are read: the HDF5 files of
UA-MT, which are normalised and cropped, and the NRRD files of the challenge.

UA-MT cropped every case, also those for testing, to a box around its label. That gives the position of the atrium away,
so scores on such volumes are optimistic.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ..errors import ShardError
from ..keyed import keyed_uniform
from ..sources.binary import foreground
from ..sources.hdf5 import LABEL, has_label
from ..sources.volume_files import Volume, read_volume, refuse_other_place
from ..sources.volume_preparing import Preparation, Spacing, cropped, encode_prepared, standardised
from .base import Importer, Options, Source
from .folder_tree import note_unused, raw_files
from .id_lists import ABSENT, Absent, read_splits
from .partition import draw_shares

HDF5, NRRD, NRRD_LABEL, WALL = "mri_norm2.h5", "lgemri.nrrd", "laendo.nrrd", "lawall.nrrd"

LISTS = {"train": "train.list", "test": "test.list"}

SHARES = {"train": 0.8, "test": 0.2}
"""Shares of the splits without lists."""

SIDE = 112
"""A box around the label is at least this wide along x and y, before its margin; as UA-MT's."""

MARGIN = (10, 20)
"""Smallest margin of a box around the label, and the smallest one that is not drawn, in voxels; as UA-MT's."""


class Settings(BaseModel):
    """Settings of the importer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lists: str = Field(
        default="", exclude=True, description="folder of train.list and test.list; empty: where they are in RAW"
    )
    absent: Absent = Field(default="error", description=ABSENT)
    val: int = Field(default=0, ge=0, description="the last so many cases of train become val")
    crop: Literal["none", "centre", "label"] = Field(
        default="none",
        description="NRRD: none: complete volumes; centre: the middle half along x and y; label: a box around the "
        "label, as UA-MT's files, which gives its position away",
    )
    voxel_size: Spacing = Field(
        default=(0.625, 0.625, 0.625), description="voxel size in mm along x, y, z of files that state none"
    )
    spacing: Spacing = Field(default=(), description="voxel size in mm along x, y, z to resample to; empty: as stored")


@dataclass(frozen=True)
class _Item:
    key: str
    image: Path
    mask: Path | None


class LeftAtrium(Importer):
    """Reads either layout. The keys of samples are the ids of the cases, as in the lists."""

    name = "left_atrium"
    summary = "100 volumes of late gadolinium-enhanced MRI, cavity of the left atrium"
    licence = "not stated by the challenge or by UA-MT: for research only, do not pass on"
    source = "2018 Atrial Segmentation Challenge; cite Xiong et al., Medical Image Analysis 67, 2021; for h5 UA-MT too"
    where = "https://www.cardiacatlas.org/atriaseg2018-challenge, or data/ of https://github.com/yulequan/UA-MT"
    tree = """\
RAW/**/<case>/mri_norm2.h5          as UA-MT prepares them: normalised, cropped around the label
  or RAW/**/<case>/lgemri.nrrd      as the challenge: image, made to have mean 0 and standard deviation 1
     RAW/**/<case>/laendo.nrrd      label, 255 is the cavity; a case without it is not segmented
RAW/**/train.list, test.list        one id per line; needed for mri_norm2.h5, otherwise a fifth of the cases is drawn
                                    by --seed for test
there is no split val unless val=N is set; needs the extra volumes"""
    default_size = 0
    settings_type = Settings
    settings: Settings

    def __init__(self, raw: str | Path | None = None, options: Options | None = None) -> None:
        super().__init__(raw, options)
        self.refuse_size()

    def splits(self) -> dict[str, Source]:
        """Return train and test of the lists, and val if there is one.

        Raises:
            ShardError: there are no cases, both layouts are present, or lists and cases do not match.
        """
        try:
            return self._splits()
        except ShardError as error:
            raise ShardError(f"left_atrium: {error}") from None

    def _splits(self) -> dict[str, Source]:
        assert self.raw is not None
        files: dict[str, list[Path]] = defaultdict(list)
        for path in raw_files(self.raw):
            files[path.name if path.name in (HDF5, NRRD, NRRD_LABEL, WALL, *LISTS.values()) else ""].append(path)
        if bool(files[HDF5]) == bool(files[NRRD]):
            found = f"both {HDF5} and {NRRD}: keep one layout" if files[HDF5] else f"neither {HDF5} nor {NRRD}"
            raise ShardError(f"{self.raw} contains {found} (`shards.py datasets` prints the tree)")
        prepared = bool(files[HDF5])
        if prepared and self.settings.crop != "none":
            raise ShardError(f"setting crop has no effect for {HDF5}, which is cropped already: remove it")
        items = _items(files[HDF5] or files[NRRD])
        split_of = self._lists(files, prepared)
        members = (
            read_splits(split_of, items, self.settings.absent, self.note)
            if split_of
            else _drawn(sorted(items), self.options.seed)
        )
        if files[WALL]:
            self.note(f"files {WALL} (wall of the atrium), not used", len(files[WALL]))
        note_unused(self.raw, files[""], self.note)
        members = _with_val(members, self.settings.val)
        return {
            split: Source(items=[items[one] for one in ids], mask_classes=("background", "left atrium"))
            for split, ids in members.items()
            if ids
        }

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        """Encode one volume and its mask."""
        given = self.settings
        image = read_volume(item.image, given.voxel_size)
        mask = _read_mask(item.mask, given.voxel_size, image, item.image) if item.mask else None
        if item.image.name == NRRD:
            everywhere = np.ones(image.values.shape, np.bool_)
            image = standardised(image, everywhere, item.image)
            image, mask = self._cropped(item, image, mask)
        how = Preparation(given.spacing, voxel_size=given.voxel_size)
        return item.key, encode_prepared(image, mask, how, item.image, note=self.note)

    def _lists(self, files: dict[str, list[Path]], prepared: bool) -> dict[str, Path]:
        """Return the list of each split; empty if the splits are drawn."""
        if self.settings.lists:
            return {split: Path(self.settings.lists) / name for split, name in LISTS.items()}
        lists: dict[str, Path] = {}
        for split, name in LISTS.items():
            if len(files[name]) > 1:
                raise ShardError(f"{files[name][0]} and {files[name][1]} are two lists: choose one with lists=FOLDER")
            if files[name]:
                lists[split] = files[name][0]
        missing = [name for split, name in LISTS.items() if split not in lists]
        if missing and (lists or prepared):
            raise ShardError(f"{self.raw} contains no {missing[0]}: add it, or name its folder with lists=FOLDER")
        return lists

    def _cropped(
        self, item: _Item, image: Volume, mask: NDArray[np.uint8] | None
    ) -> tuple[Volume, NDArray[np.uint8] | None]:
        """Return image and mask inside of the box that the settings choose."""
        width, height, depth = image.values.shape[:3]
        if self.settings.crop == "none":
            return image, mask
        if self.settings.crop == "centre":
            low, high = (width // 4, height // 4, 0), (width - width // 4, height - height // 4, depth)
        else:
            if mask is None or not mask.any():
                raise ShardError(f"{item.image} has no label to crop to: use crop=none or crop=centre")
            low, high = _label_box(mask, self.options.seed, item.key)
            self.note("volumes cropped around the label, which gives its position away")
        inside = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
        if mask is not None:
            if np.count_nonzero(mask[inside]) < np.count_nonzero(mask):
                self.note("masks cut by crop=centre")
            mask = np.ascontiguousarray(mask[inside])
        return cropped(image, low, high), mask


IMPORTER = LeftAtrium


def _items(images: Sequence[Path]) -> dict[str, _Item]:
    """Map id -> case."""
    found: dict[str, _Item] = {}
    for image in images:
        name = image.parent.name
        if name in found:
            raise ShardError(f"{found[name].image} and {image} have the same id: remove one")
        mask = image if image.name == HDF5 else image.with_name(NRRD_LABEL)
        labelled = has_label(image) if image.name == HDF5 else mask.is_file()
        found[name] = _Item(name, image, mask if labelled else None)
    return found


def _drawn(ids: Sequence[str], seed: int) -> dict[str, list[str]]:
    """Return the ids of each split, drawn by a seed."""
    split_of = draw_shares(dict.fromkeys(ids, 0), SHARES, seed, "left_atrium", "splits")
    return {split: [one for one in ids if split_of[one] == split] for split in SHARES}


def _with_val(members: dict[str, list[str]], count: int) -> dict[str, list[str]]:
    """Move the last ids of train to val."""
    train = members["train"]
    if count >= len(train):
        raise ShardError(f"setting val={count}: train has {len(train)} cases: leave at least one of them")
    return {**members, "train": train[: len(train) - count], "val": train[len(train) - count :]}


def _read_mask(path: Path, voxel_size: Sequence[float], image: Volume, image_path: Path) -> NDArray[np.uint8]:
    mask = read_volume(path, voxel_size, LABEL)
    refuse_other_place(mask, path, image, image_path)
    return foreground(mask.values, path)[0]


def _label_box(mask: NDArray[np.uint8], seed: int, key: str) -> tuple[list[int], list[int]]:
    """Return the first voxel of a box around the label, and the one after its last; all of it along z.

    The margins along x and y are drawn for each side. UA-MT drew them without a seed.
    """
    low, high = [0, 0, 0], list(mask.shape)
    margins = keyed_uniform(seed, "left_atrium", "margin", key, np.arange(4)).reshape(2, 2)
    for axis in range(2):
        marked = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        first, last = int(marked[0]), int(marked[-1]) + 1
        before, after = (
            max(SIDE - (last - first), 0) // 2 + MARGIN[0] + int(draw * (MARGIN[1] - MARGIN[0]))
            for draw in margins[axis].tolist()
        )
        low[axis], high[axis] = max(first - before, 0), min(last + after, mask.shape[axis])
    return low, high
