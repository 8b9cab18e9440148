"""Import your own data without code: a folder of images, with optional masks and an optional table of labels."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from ..errors import ShardError
from ..sample import IGNORE
from ..sources.encode import encode_grey, encode_json, encode_opened
from ..sources.masks import MaskValues, read_mask, resize_mask
from ..sources.raw import load, open_raw, upright_size
from ..sources.volume_preparing import Intensity, Preparation, Spacing, Window
from .base import Importer, Options, Source
from .folder_labels import Labels, read_labels
from .folder_tree import find_images, find_masks, holds_volumes
from .folder_volumes import encode_volume_files, with_own_masks
from .keys import KeyKind, make_keys
from .partition import Partition, refuse_shared, split_patients

_SPLIT = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_DRAWN = frozenset({"val", "test", "folds", "fold"})
_OF_PICTURES = frozenset({"channels"})
_OF_VOLUMES = frozenset({"spacing", "window", "intensity"})


def _names(text: Any) -> Any:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if isinstance(text, str) else text


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
"""A list, given with commas."""


class Settings(BaseModel):
    """Settings of the importer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: Names = Field(default=(), description="image classes in label order; empty: the labels found, sorted")
    mask_classes: Names = Field(default=("background", "lesion"), description="pixel classes, background first")
    mask_values: MaskValues = Field(
        default="binary", description="binary: any value except 0 is class 1; classes: class numbers, 255 = ignore"
    )
    channels: Literal["rgb", "grey"] = Field(
        default="rgb", description="rgb: grey images become RGB; grey: colour images are refused, 16 bits are kept"
    )
    spacing: Spacing = Field(default=(), description="volumes: voxel size in mm along x, y, z; empty: as stored")
    window: Window = Field(default=(), description="volumes: low,high to clip values to; empty: no clipping")
    intensity: Intensity = Field(
        default="keep",
        description="volumes: keep: unchanged values; volume: subtract the mean, divide by the standard deviation",
    )
    val: float = Field(default=0.15, description="fraction of the patients for validation")
    test: float = Field(default=0.15, description="fraction of the patients for testing")
    folds: int = Field(default=0, description="2 or more: number of cross-validation folds, instead of val")
    fold: int = Field(default=0, description="the fold that is val, from 0; the others are train")
    keys: KeyKind = Field(
        default="hashed", description="hashed: hash of salt and path, hides file names; names: from the path"
    )
    salt: SecretStr = Field(
        default=SecretStr(""), exclude=True, description="your own secret for hashed keys; not stored"
    )

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        for names in (self.classes, self.mask_classes):
            if len(set(names)) != len(names):
                raise ValueError(f"{','.join(names)} contains a class twice")
        if len(self.mask_classes) < 2 or (self.mask_values == "binary" and len(self.mask_classes) > 2):
            raise ValueError(
                f"mask_classes={','.join(self.mask_classes)}: binary masks need 2 classes, others 2 or more"
            )
        if self.folds and "val" in self.model_fields_set:
            raise ValueError("val has no effect with folds, since a fold is val: remove val")
        return self


@dataclass(frozen=True)
class _Item:
    key: str
    image: Path
    masks: tuple[Path, ...]
    label: int | None


class Folder(Importer):
    """Imports images or volumes, split by patient. Images are resized to a square, masks by NEAREST.

    Attributes:
        volumes: whether the folder contains volumes instead of 2D images.
    """

    name = "folder"
    summary = "your own images, with optional masks and labels; no code needed"
    licence = "not stated: the data are the user's own"
    source = "not stated: the data are the user's own"
    where = "arrange your files in RAW as shown below"
    tree = """\
RAW/images/**   PNG, JPEG, TIFF or BMP, optionally in subfolders; or volumes (extra volumes): .nii, .nii.gz, .nrrd,
                .h5 or .hdf5 with a dataset image, and folders of .dcm files, one series per folder
RAW/masks/**    same path and name as the image, optionally followed by _ and any text: case 7.jpg, case 7_lesion.png;
                several binary masks of an image are merged; an image without a mask is not segmented; the mask of
                a .h5 file may be the dataset label in the same file
RAW/labels.csv  column image, and optionally label, patient and split; an image without a label is unlabelled;
                without a column split, patients are drawn by --seed, or images if there is no column patient"""
    default_size = 256
    settings_type = Settings
    settings: Settings

    def __init__(self, raw: str | Path | None = None, options: Options | None = None) -> None:
        super().__init__(raw, options)
        assert self.raw is not None
        self.volumes = holds_volumes(self.raw / "images")
        if unused := sorted(self.settings.model_fields_set & self._unused):
            kind = "volumes" if self.volumes else "2D images"
            raise ShardError(f"folder: setting {unused[0]} has no effect for {kind}: remove it")
        if self.volumes:
            if self.options.size:
                raise ShardError(
                    f"folder: --size {self.size} has no effect for volumes: use --set spacing=1,1,1, in mm"
                )
            self.size = 0

    @property
    def manifest_options(self) -> dict[str, Any]:
        """The options stored in the manifest, without those that have no effect for this kind of images."""
        return {key: value for key, value in super().manifest_options.items() if key not in self._unused}

    def splits(self) -> dict[str, Source]:
        """Return the splits of the table, or train, val and test drawn by patient (by image without patients).

        Raises:
            ShardError: files and rows do not match, a label is not a class, or a patient is in two splits.
        """
        assert self.raw is not None
        images = find_images(self.raw / "images")
        masks = find_masks(self.raw / "masks", images)
        if self.volumes:
            masks = with_own_masks(images, masks)
        labels = read_labels(self.raw / "labels.csv", images, self.raw / "images")
        if self.settings.mask_values == "classes":
            _refuse_several(masks)
        classes = self.settings.classes or _sorted_labels(labels)
        named_masks = masks or "mask_classes" in self.settings.model_fields_set
        numbers = self._numbers(labels, classes)
        keys = self._keys(images)
        found: dict[str, list[_Item]] = {"train": [], "val": [], "test": []}
        for name, split in self._split_of(images, labels).items():
            item = _Item(keys[name], images[name], masks.get(name, ()), numbers.get(name))
            found.setdefault(split, []).append(item)
        return {
            split: Source(
                items=items,
                classes=classes,
                mask_classes=self.settings.mask_classes if named_masks else (),
                tasks={name: (number,) for number, name in enumerate(classes) if number or len(classes) > 2},
            )
            for split, items in found.items()
            if items
        }

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        """Encode image, mask and label of one file."""
        if self.volumes:
            return item.key, self._encode_volume(item)
        opened = open_raw(item.image)
        mask = self._mask(item, upright_size(opened, item.image)) if item.masks else None
        channels = 3 if self.settings.channels == "rgb" else 1
        extension, image, size = encode_opened(
            opened, item.image, self.size, self.options.lossless, channels, upright=True
        )
        # Source bytes that are kept have not been decoded. Decoding them here reports damage with the file's name.
        load(opened, item.image)
        components = {extension: image, "json": encode_json(item.label)}
        if mask is not None:
            components["mask.png"] = encode_grey(resize_mask(mask, size))
        return item.key, components

    @property
    def _unused(self) -> frozenset[str]:
        return _OF_PICTURES if self.volumes else _OF_VOLUMES

    def _encode_volume(self, item: _Item) -> dict[str, bytes]:
        given = self.settings
        how = Preparation(given.spacing, given.window, given.intensity)
        classes = len(given.mask_classes)
        return encode_volume_files(item.image, item.masks, given.mask_values, classes, how, item.label)

    def _keys(self, images: Mapping[str, Path]) -> dict[str, str]:
        try:
            return make_keys(images, self.settings.keys, self.settings.salt.get_secret_value())
        except ShardError as error:
            raise ShardError(f"folder: {error}") from None

    def _mask(self, item: _Item, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Merge all masks of an image, (H, W) like the image."""
        classes = len(self.settings.mask_classes)
        joined = np.zeros(size, dtype=np.uint8)
        for path in item.masks:
            mask = read_mask(path, self.settings.mask_values)
            if mask.shape != size:
                sizes = f"{mask.shape[0]}x{mask.shape[1]}, but the image {item.image} is {size[0]}x{size[1]}"
                raise ShardError(f"{path}: the mask is {sizes} (after its EXIF orientation): they must be equal")
            if (wrong := mask[(mask >= classes) & (mask != IGNORE)]).size:
                raise ShardError(
                    f"{path}: mask value {wrong[0]} is not a class: there are {classes} classes, and 255 = ignore"
                )
            joined |= mask
        return joined

    def _numbers(self, labels: Labels, classes: tuple[str, ...]) -> dict[str, int]:
        """Map image name -> label number."""
        for name, label in labels.label.items():
            if label not in classes:
                raise ShardError(f"folder: image {name!r} has the label {label!r}: must be one of {', '.join(classes)}")
        return {name: classes.index(label) for name, label in labels.label.items()}

    def _split_of(self, images: Mapping[str, Path], labels: Labels) -> dict[str, str]:
        """Map image name -> split."""
        patients = labels.patient or {name: name for name in images}
        settings = self.settings
        try:
            if not labels.split:
                partition = Partition(self.options.seed, settings.val, settings.test, settings.folds, settings.fold)
                drawn = split_patients(patients.values(), partition)
                return {name: drawn[patients[name]] for name in images}
            if unused := sorted(settings.model_fields_set & _DRAWN):
                raise ShardError(
                    f"setting {unused[0]} has no effect if labels.csv has a column split: remove one of them"
                )
            members: dict[str, list[str]] = {}
            for name, split in labels.split.items():
                if not _SPLIT.fullmatch(split):
                    raise ShardError(
                        f"image {name!r} has the split {split!r}: use train, val, test or a similar lower-case name"
                    )
                members.setdefault(split, []).append(patients[name])
            refuse_shared(members)
            return {name: labels.split[name] for name in images}
        except ShardError as error:
            raise ShardError(f"folder: {error}") from None


IMPORTER = Folder


def _refuse_several(masks: Mapping[str, tuple[Path, ...]]) -> None:
    if several := [paths for paths in masks.values() if len(paths) > 1]:
        raise ShardError(
            f"folder: {len(several)} images have several masks, first {several[0][0].name} and {several[0][1].name}: "
            "masks of class numbers cannot be merged"
        )


def _sorted_labels(labels: Labels) -> tuple[str, ...]:
    """Return the labels found, sorted numerically if all are numbers, else alphabetically."""
    found = set(labels.label.values())
    numeric = all(label.isdecimal() for label in found)
    return tuple(sorted(found, key=lambda label: (int(label) if numeric else 0, label)))
