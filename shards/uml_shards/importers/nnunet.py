"""Import any data set in the raw layout of nnU-Net (v2, v1) or the Medical Segmentation Decathlon."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from ..errors import ShardError
from ..sample import IGNORE
from ..sources.volume_files import Volume, read_numbers, read_volume, refuse_other_place
from ..sources.volume_preparing import Intensity, Preparation, Spacing, Window, encode_prepared
from .base import Importer, Options, Source
from .duplicates import DUPLICATES, Duplicates, without_copies
from .folder_tree import BESIDE, note_unused, raw_files
from .keys import KeyKind, make_keys
from .nnunet_json import Description, read_description, read_fold
from .partition import Partition, refuse_shared, split_known

_LAYOUT = ("dataset.json", "imagesTr", "labelsTr", "imagesTs", "labelsTs", "splits_final.json")
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_KEPT = frozenset({"ct", "nonorm"})
"""Lower-case names of channels that are not normalised: CT has physical units, noNorm requests it."""


class Settings(BaseModel):
    """Settings of the importer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    voxel_size: Spacing = Field(
        default=(), description="voxel size in mm along x, y, z of files that state none; empty: unknown"
    )
    spacing: Spacing = Field(default=(), description="voxel size in mm along x, y, z; empty: as stored")
    window: Window = Field(
        default=(), description="low,high to clip the values of every channel to; empty: no clipping"
    )
    intensity: Intensity | Literal["auto"] = Field(
        default="auto",
        description="keep: unchanged values; volume: subtract the mean of the non-zero voxels, divide by their "
        "standard deviation; auto: keep for channels named CT or noNorm, volume for all others",
    )
    val: float = Field(default=0.2, description="fraction of the cases for validation; not with splits_final.json")
    test: float = Field(default=0.0, description="fraction of the cases for testing; not with imagesTs")
    folds: int = Field(default=0, description="2 or more: number of cross-validation folds, instead of val")
    fold: int = Field(default=0, description="the fold, of these or of splits_final.json, that is val, from 0")
    duplicates: Duplicates = Field(default="error", description=DUPLICATES)
    keys: KeyKind = Field(
        default="hashed", description="hashed: hash of salt and case, hides names; names: the case name"
    )
    salt: SecretStr = Field(
        default=SecretStr(""), exclude=True, description="your own secret for hashed keys; not stored"
    )

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        if self.folds and "val" in self.model_fields_set:
            raise ValueError("val has no effect with folds, since a fold is val: remove val")
        return self


@dataclass(frozen=True)
class _Case:
    images: tuple[Path, ...]
    labels: Path | None


@dataclass(frozen=True)
class _Item:
    key: str
    case: _Case
    description: Description


class NnUnet(Importer):
    """Imports each case as a volume. Splits are those of splits_final.json, or are drawn by case."""

    name = "nnunet"
    summary = "any data set in the layout of nnU-Net (v2, v1) or the Medical Segmentation Decathlon"
    licence = "not stated: see licence and reference in the data set's dataset.json"
    source = "not stated: see licence and reference in the data set's dataset.json"
    where = "RAW is one folder of nnUNet_raw, such as Dataset004_Hippocampus, or a task of medicaldecathlon.com"
    tree = """\
RAW/dataset.json                    channel_names (or modality), labels, file_ending: .nii.gz, .nii or .nrrd
RAW/imagesTr/<case>_0000.nii.gz     one file per channel, _0000, _0001 and so on; or <case>.nii.gz with all channels
RAW/labelsTr/<case>.nii.gz          class numbers; a case without labels is not segmented; the label ignore becomes 255
RAW/imagesTs, RAW/labelsTs          the split test; optional
RAW/splits_final.json               optional, from nnUNet_preprocessed: train and val by --set fold; otherwise cases
                                    are drawn by --seed; needed if a patient has several cases
needs the extra volumes"""
    default_size = 0
    settings_type = Settings
    settings: Settings

    def __init__(self, raw: str | Path | None = None, options: Options | None = None) -> None:
        super().__init__(raw, options)
        self.refuse_size()

    def splits(self) -> dict[str, Source]:
        """Return train and val, and test if there is one.

        Raises:
            ShardError: dataset.json is not supported, or files or settings do not match it.
        """
        assert self.raw is not None
        self._check_names()
        description = read_description(self.raw / "dataset.json")
        cases = _find_cases(self.raw, "Tr", description)
        tests = _find_cases(self.raw, "Ts", description) if (self.raw / "imagesTs").is_dir() else {}
        labelled = sum(case.labels is not None for case in cases.values())
        if description.training not in (None, len(cases), labelled):
            raise ShardError(
                f"nnunet: dataset.json states {description.training} training cases, but imagesTr contains "
                f"{len(cases)} and labelsTr {labelled}: check whether the copy is complete"
            )
        if both := sorted(cases.keys() & tests.keys()):
            raise ShardError(f"nnunet: {len(both)} cases are in imagesTr and in imagesTs, first {both[0]}")
        try:
            split_of = self._split_of(cases, bool(tests)) | dict.fromkeys(tests, "test")
            files = {name: case.images[0] for name, case in (cases | tests).items()}
            split_of = without_copies(files, split_of, {}, self.settings.duplicates, self.note)
            keys = make_keys(split_of, self.settings.keys, self.settings.salt.get_secret_value())
        except ShardError as error:
            raise ShardError(f"nnunet: {error}") from None
        found: dict[str, list[_Item]] = {"train": [], "val": [], "test": []}
        for name, case in (cases | tests).items():
            if name in split_of:
                found[split_of[name]].append(_Item(keys[name], case, description))
        segmented = any(case.labels for case in (cases | tests).values())
        mask_classes = description.labels if segmented else ()
        return {split: Source(items=items, mask_classes=mask_classes) for split, items in found.items() if items}

    def origin(self, item: Any) -> tuple[str, str]:
        """Return the key and the image file of an item; of several channels, the first one's."""
        return item.key, str(item.case.images[0])

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        """Encode the channels of a case as one volume, and its mask."""
        path = item.case.images[0]
        size = self.settings.voxel_size
        image = _read_image(item.case.images, size)
        mask = None
        if item.case.labels:
            mask = _classes(read_numbers(item.case.labels, size), item.case.labels, image, path, item.description)
        kind = self.settings.intensity
        intensity: list[Intensity] = [
            kind if kind != "auto" else "keep" if name.lower() in _KEPT else "volume"
            for name in item.description.channels
        ]
        how = Preparation(self.settings.spacing, self.settings.window, intensity)
        return item.key, encode_prepared(image, mask, how, path)

    def _check_names(self) -> None:
        """Note what is not used in RAW. A name that is almost one of the layout would lose labels or a test set."""
        assert self.raw is not None
        unused = [path for path in raw_files(self.raw) if path.relative_to(self.raw).parts[0] not in _LAYOUT]
        missing = [name for name in _LAYOUT if not (self.raw / name).exists()]
        for path in unused:
            name = path.relative_to(self.raw).parts[0]
            for meant in missing:
                if difflib.get_close_matches(name.lower(), [meant.lower()], cutoff=0.8):
                    raise ShardError(f"nnunet: {self.raw / name} is not part of the layout: did you mean {meant}?")
        note_unused(self.raw, unused, self.note)

    def _split_of(self, cases: Mapping[str, _Case], tested: bool) -> dict[str, str]:
        """Map case -> split for the cases in imagesTr."""
        assert self.raw is not None
        given, final = self.settings, self.raw / "splits_final.json"
        if tested and "test" in given.model_fields_set:
            raise ShardError("setting test has no effect if imagesTs is the test split: remove one of them")
        if not final.is_file():
            partition = Partition(self.options.seed, given.val, given.test, given.folds, given.fold)
            known = [name for name, case in cases.items() if case.labels]
            return split_known({name: name for name in cases}, known, partition, self.note)
        if unused := sorted(given.model_fields_set & {"val", "test", "folds"}):
            raise ShardError(f"setting {unused[0]} has no effect with {final}: remove one of them")
        members = read_fold(final, given.fold)
        refuse_shared(members)
        drawn = {name: split for split, names in members.items() for name in names}
        if unknown := sorted(drawn.keys() - cases.keys()):
            raise ShardError(f"{len(unknown)} cases of {final} are not in imagesTr, first {unknown[0]!r}")
        left = [name for name, case in cases.items() if case.labels and name not in drawn]
        if left:
            raise ShardError(f"{len(left)} cases with labels are in no split of {final}, first {left[0]!r}: add them")
        # nnU-Net does not support cases without labels; here they are used for training.
        return {name: drawn.get(name, "train") for name in cases}


IMPORTER = NnUnet


def _find_cases(raw: Path, part: str, description: Description) -> dict[str, _Case]:
    """Map case -> its files in imagesTr and labelsTr, or in imagesTs and labelsTs."""
    images = _files(raw / f"images{part}", description.ending)
    labels = _files(raw / f"labels{part}", description.ending) if (raw / f"labels{part}").is_dir() else {}
    found: dict[str, dict[int, Path]] = {}
    matches = {name: _CHANNEL.fullmatch(name) for name in images}
    if not any(matches.values()):
        cases = {name: _Case((path,), labels.get(name)) for name, path in images.items()}
    else:
        for name, match in matches.items():
            if match is None:
                raise ShardError(
                    f"nnunet: {images[name]} has no channel number before its extension: name it like <case>_0000"
                )
            found.setdefault(match[1], {})[int(match[2])] = images[name]
        expected = list(range(len(description.channels)))
        for name, channels in found.items():
            if sorted(channels) != expected:
                numbers = ", ".join(f"{number:04d}" for number in channels)
                wanted = f"0000 to {expected[-1]:04d}" if expected[1:] else "0000"
                raise ShardError(f"nnunet: case {name} of images{part} has the channels {numbers}: needs {wanted}")
        cases = {name: _Case(tuple(found[name][n] for n in expected), labels.get(name)) for name in found}
    if orphans := sorted(labels.keys() - cases.keys()):
        raise ShardError(f"nnunet: {len(orphans)} files of labels{part} have no image, first {labels[orphans[0]]}")
    return cases


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """Map name without extension -> file. Hidden files and notes are ignored."""
    if not folder.is_dir():
        raise ShardError(f"nnunet: {folder} is missing (`shards.py datasets` prints the tree)")
    files = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    others = [path for path in files if not path.name.endswith(ending) and path.suffix.lower() not in BESIDE]
    if others:
        raise ShardError(f"nnunet: {len(others)} files of {folder} do not end in {ending}, first {others[0].name}")
    return {path.name.removesuffix(ending): path for path in files if path.name.endswith(ending)}


def _read_image(paths: tuple[Path, ...], voxel_size: Sequence[float]) -> Volume:
    """Read an image with its channels on the last axis."""
    first, *others = (read_volume(path, voxel_size) for path in paths)
    if not others:
        return first
    for path, volume in zip(paths, (first, *others), strict=True):
        if volume.values.ndim != 3:
            raise ShardError(f"{path}: contains {volume.values.shape[3]} channels, must contain one")
        refuse_other_place(volume, path, first, paths[0])
    return Volume(np.stack([first.values, *(other.values for other in others)], axis=3), first.affine, first.stated)


def _classes(
    labels: Volume, path: Path, image: Volume, image_path: Path, description: Description
) -> NDArray[np.uint8]:
    """Return the class numbers of the labels of an image."""
    refuse_other_place(labels, path, image, image_path)
    numbers, ignored = labels.values, labels.values == description.ignore
    if (wrong := numbers[((numbers < 0) | (numbers >= len(description.labels))) & ~ignored]).size:
        raise ShardError(f"{path}: mask value {wrong[0]} is not a label in dataset.json")
    return np.where(ignored, IGNORE, numbers).astype(np.uint8)
