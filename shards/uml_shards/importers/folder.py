"""Import your own data without code: a folder of images, with optional masks and an optional table of labels."""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator

from ..errors import ShardError
from ..sample import IGNORE
from ..sources.encode import encode_grey, encode_json, encode_opened
from ..sources.lesions import COVER, encode_lesions
from ..sources.masks import LOST, MaskValues, read_mask, resize_mask
from ..sources.raw import is_turned, load, open_raw, upright_size
from ..sources.volume_preparing import Intensity, Preparation, Spacing, Window
from .base import Importer, Options, Source
from .duplicates import DUPLICATES, Duplicates, without_copies
from .folder_labels import Labels, find_table, read_labels
from .folder_masks import Joining, MaskFiles, Observers, refuse_unknown_classes
from .folder_tree import find_images, find_masks, holds_volumes, report_unused
from .folder_volumes import encode_volume_files, with_own_masks
from .keys import KeyKind, make_keys
from .partition import Partition, refuse_shared, split_known

_SPLIT = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_DRAWN = frozenset({"val", "test", "folds", "fold"})
_OF_PICTURES = frozenset({"channels", "exif", "mask_names"})
_OF_VOLUMES = frozenset({"voxel_size", "spacing", "window", "intensity"})


def _names(text: Any) -> Any:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if isinstance(text, str) else text


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
"""A list, given with commas."""


class Settings(BaseModel):
    """Settings of the importer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: Names = Field(default=(), description="image classes in label order; empty: the labels found, sorted")
    mask_classes: Names = Field(default=("background", "lesion"), description="pixel classes, background first")
    labels: str = Field(
        default="", description="table of labels, a path in RAW, or none; empty: labels.csv if there is one"
    )
    mask_names: Names = Field(
        default=(), description="masks that may overlap, such as lesions, one file each, instead of mask_classes"
    )
    mask_values: MaskValues = Field(
        default="binary",
        description="binary: 0 and one other value, or one file per class; nonzero: any value except 0 is foreground; "
        "classes: class numbers, 255 = ignore",
    )
    mask_threshold: float | None = Field(
        default=None, gt=0, le=1, description="soft maps: fraction of full scale from which a mask is foreground"
    )
    mask_cover: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="shrinking: fraction of a new pixel that a class must cover, such as 0.1, which keeps small "
        "lesions; empty: the class at the pixel's centre, and 0.5 for mask_names, whose lesions are all kept",
    )
    observers: Observers = Field(
        default="",
        description="several masks of one class are drawings of observers: first, union, majority or consensus",
    )
    exif: Literal["upright", "stored"] = Field(
        default="upright", description="masks fit images after their EXIF orientation, or as stored, without it"
    )
    duplicates: Duplicates = Field(default="error", description=DUPLICATES)
    channels: Literal["rgb", "grey"] = Field(
        default="rgb", description="rgb: grey images become RGB; grey: colour images are refused, 16 bits are kept"
    )
    voxel_size: Spacing = Field(
        default=(), description="volumes: voxel size in mm along x, y, z of files that state none; empty: unknown"
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

    @field_validator("mask_threshold", "mask_cover", mode="before")
    @classmethod
    def _empty_is_none(cls, given: Any) -> Any:
        return None if given == "" else given

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        for kind, names in (("class", self.classes), ("class", self.mask_classes), ("mask", self.mask_names)):
            if len(set(names)) != len(names):
                raise ValueError(f"{','.join(names)} contains a {kind} twice")
        if self.mask_names and "mask_classes" in self.model_fields_set:
            raise ValueError("mask_classes has no effect with mask_names, whose masks may overlap: remove one of them")
        if self.mask_names and self.mask_values == "classes":
            raise ValueError("mask_values=classes has no effect with mask_names, which need one file each: remove it")
        if len(self.mask_classes) < 2:
            raise ValueError(f"mask_classes={','.join(self.mask_classes)}: name background and at least one class")
        if self.mask_threshold is not None and self.mask_values != "binary":
            raise ValueError(f"mask_threshold has no effect with mask_values={self.mask_values}: remove it")
        if self.folds and "val" in self.model_fields_set:
            raise ValueError("val has no effect with folds, since a fold is val: remove val")
        return self


@dataclass(frozen=True)
class _Item:
    key: str
    image: Path
    masks: MaskFiles
    label: int | None
    patient: str | None


class Folder(Importer):
    """Imports images or volumes, split by patient. Images are resized to a square, with their masks.

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
                disjoint binary masks of an image are merged; an image without a mask is not segmented; the mask of
                a .h5 file may be the dataset label in the same file; with several mask_classes, one file per class,
                masks/<class>/<image> or <image>_<class>, or class numbers; with mask_names, one file per name, which
                may overlap, and a name without a file is absent from the image
RAW/labels.csv  column image, and optionally label, patient and split; .tsv or .xlsx with --set labels=FILE; an
                image without a label is unlabelled;
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
            self.refuse_size()
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
        given = self.settings
        table = find_table(self.raw, given.labels)
        images = find_images(self.raw / "images", self.note)
        masks = find_masks(self.raw / "masks", images, self.note)
        if self.volumes:
            masks = with_own_masks(images, masks)
        report_unused(self.raw, [table] if table else [], self.note)
        labels = read_labels(table, images, self.raw / "images", given.classes, self.note)
        files = self._joining.assign(masks, self.raw / "masks")
        classes = given.classes or _sorted_labels(labels)
        masked = masks or {"mask_classes", "mask_names"} & given.model_fields_set
        numbers = self._numbers(labels, classes)
        split_of = self._split_of(images, labels, files.keys() | numbers.keys())
        try:
            split_of = without_copies(images, split_of, numbers, given.duplicates, self.note)
        except ShardError as error:
            raise ShardError(f"folder: {error}") from None
        keys, patients = self._keys(images), self._keys(sorted(set(labels.patient.values())))
        found: dict[str, list[_Item]] = {"train": [], "val": [], "test": []}
        for name, split in split_of.items():
            patient = patients.get(labels.patient.get(name, ""))
            item = _Item(keys[name], images[name], files.get(name, ()), numbers.get(name), patient)
            found.setdefault(split, []).append(item)
        self._refuse_unmarked(found["train"])
        return {
            split: Source(
                items=items,
                classes=classes,
                mask_classes=given.mask_classes if masked and not given.mask_names else (),
                mask_names=given.mask_names,
                tasks={name: (number,) for number, name in enumerate(classes) if number or len(classes) > 2},
            )
            for split, items in found.items()
            if items
        }

    def origin(self, item: Any) -> tuple[str, str]:
        """Return the key and the image file of an item."""
        return item.key, str(item.image)

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        """Encode image, mask and label of one file."""
        if self.volumes:
            return item.key, self._encode_volume(item)
        opened = open_raw(item.image)
        upright = self.settings.exif == "upright"
        self._note_turned(opened, item)
        stored = upright_size(opened, item.image) if upright else (opened.height, opened.width)
        channels = 3 if self.settings.channels == "rgb" else 1
        extension, image, size = encode_opened(
            opened, item.image, self.size, self.options.lossless, channels, upright=upright
        )
        # Source bytes that are kept have not been decoded. Decoding them here reports damage with the file's name.
        load(opened, item.image)
        masks = self._encode_masks(item, stored, size) if item.masks else {}
        return item.key, {extension: image, "json": encode_json(item.label, _meta(item)), **masks}

    @property
    def _unused(self) -> frozenset[str]:
        return _OF_PICTURES if self.volumes else _OF_VOLUMES

    @property
    def _joining(self) -> Joining:
        given = self.settings
        classes = ("background", *given.mask_names) if given.mask_names else given.mask_classes
        return Joining(classes, given.mask_values, given.observers, given.mask_threshold, bool(given.mask_names))

    def _encode_volume(self, item: _Item) -> dict[str, bytes]:
        given = self.settings
        how = Preparation(given.spacing, given.window, given.intensity, given.mask_cover, given.voxel_size)
        return encode_volume_files(item.image, item.masks, self._joining, how, item.label, self.note, _meta(item))

    def _note_turned(self, opened: ImageFile, item: _Item) -> None:
        """Note an image with an EXIF orientation and a mask, since nothing shows on which pixels a mask was drawn."""
        if not item.masks or not is_turned(opened, item.image):
            return
        if self.settings.exif == "stored":
            if opened.format == "TIFF":
                raise ShardError(f"{item.image}: exif=stored is not supported for a turned TIFF: store it upright")
            self.note("images with mask and EXIF orientation, which was not applied (exif=stored)")
        else:
            self.note(
                "images with mask turned by their EXIF orientation (if the masks were drawn on the stored pixels, use "
                "exif=stored)"
            )

    def _note_lost(self, mask: NDArray[np.uint8], resized: NDArray[np.uint8]) -> None:
        """Note a mask that lost a class, and a mask of class numbers that is probably a binary one."""
        if set(np.unique(mask)) - set(np.unique(resized)) - {0, IGNORE}:
            self.note(LOST)
        if self.settings.mask_values == "classes" and IGNORE in mask and not ((mask > 0) & (mask < IGNORE)).any():
            self.note("masks with only 0 and 255, which means ignore (if 255 is foreground, use mask_values=binary)")

    def _keys(self, names: Iterable[str]) -> dict[str, str]:
        try:
            return make_keys(names, self.settings.keys, self.settings.salt.get_secret_value())
        except ShardError as error:
            raise ShardError(f"folder: {error}") from None

    def _encode_masks(self, item: _Item, stored: tuple[int, int], size: tuple[int, int]) -> dict[str, bytes]:
        """Read and encode all masks of an image.

        Args:
            item: the image.
            stored: (H, W) of image and masks.
            size: (H, W) to which they are resized.
        """
        given = self.settings

        def read(path: Path) -> NDArray[np.uint8]:
            mask = read_mask(path, given.mask_values, given.mask_threshold, self.note)
            if mask.shape != stored:
                pixels = "after its EXIF orientation" if given.exif == "upright" else "as stored"
                hint = ": if the mask fits the stored pixels, use exif=stored" if mask.shape == stored[::-1] else ""
                sizes = f"{mask.shape[0]}x{mask.shape[1]}, but the image {item.image} is {stored[0]}x{stored[1]}"
                raise ShardError(f"{path}: the mask is {sizes} ({pixels}): they must be equal{hint}")
            if given.mask_values == "classes":
                refuse_unknown_classes(mask, len(given.mask_classes), path)
            return mask

        if given.mask_names:
            masks = self._joining.separate(item.masks, read, self.note)
            return encode_lesions(masks, size, self.note, given.mask_cover or COVER)
        mask = self._joining.join(item.masks, read, self.note)
        resized = resize_mask(mask, size, given.mask_cover)
        self._note_lost(mask, resized)
        return {"mask.png": encode_grey(resized)}

    def _refuse_unmarked(self, items: Sequence[_Item]) -> None:
        """Refuse a name of a mask that marks no pixel of the training split, since nothing could be learnt about it.

        For each name, files are read until one has a marked pixel. A file that cannot be read is reported later, with
        its sample.
        """
        given = self.settings
        if not any(item.masks for item in items):
            return
        for number, name in enumerate(given.mask_names, start=1):
            paths = [path for item in items for of_class, path in item.masks if of_class == number]
            if not any(_marks(path, given.mask_values, given.mask_threshold) for path in paths):
                files = f"none of the {len(paths)} files of {name}" if paths else f"no file of {name}"
                raise ShardError(
                    f"folder: {files} in {self.raw}/masks marks a pixel of a training image: remove {name} from "
                    "mask_names, or add masks that show it"
                )

    def _numbers(self, labels: Labels, classes: tuple[str, ...]) -> dict[str, int]:
        """Map image name -> label number."""
        for name, label in labels.label.items():
            if label not in classes:
                raise ShardError(f"folder: image {name!r} has the label {label!r}: must be one of {', '.join(classes)}")
        return {name: classes.index(label) for name, label in labels.label.items()}

    def _split_of(self, images: Mapping[str, Path], labels: Labels, known: Set[str]) -> dict[str, str]:
        """Map image name -> split: drawn by patient, stated by the table, or both.

        Args:
            images: image name -> file.
            labels: the table.
            known: names of the images with a label or a mask.
        """
        patients = labels.patient or {name: name for name in images}
        given = self.settings
        try:
            if not labels.split:
                return self._drawn({name: patients[name] for name in images}, known, given.test)
            members: dict[str, list[str]] = {}
            for name, split in labels.split.items():
                if not _SPLIT.fullmatch(split):
                    raise ShardError(
                        f"image {name!r} has the split {split!r}: use train, val, test or a similar lower-case name"
                    )
                members.setdefault(split, []).append(patients[name])
            refuse_shared(members)
            stated = {name: labels.split[name] for name in images}
            return self._with_validation(stated, patients, known) if given.model_fields_set & _DRAWN else stated
        except ShardError as error:
            raise ShardError(f"folder: {error}") from None

    def _with_validation(
        self, stated: Mapping[str, str], patients: Mapping[str, str], known: Set[str]
    ) -> dict[str, str]:
        """Draw val, or a fold, from the patients of train, where the table states train and test only."""
        settings = sorted(self.settings.model_fields_set & _DRAWN)
        if "test" in settings or "val" in stated.values() or "train" not in stated.values():
            unused = "test" if "test" in settings else settings[0]
            raise ShardError(f"setting {unused} has no effect if the table states this split: remove one of them")
        trained = {name: patients[name] for name, split in stated.items() if split == "train"}
        return {**stated, **self._drawn(trained, known & trained.keys(), test=0)}

    def _drawn(self, patients: Mapping[str, str], known: Set[str], test: float) -> dict[str, str]:
        """Map image name -> split, drawn by patient; see `split_known`."""
        given = self.settings
        partition = Partition(self.options.seed, given.val, test, given.folds, given.fold)
        return split_known(patients, known, partition, self.note)


IMPORTER = Folder


def _marks(path: Path, values: MaskValues, threshold: float | None) -> bool:
    """Whether a mask file marks a pixel. One that cannot be read is taken to, as its sample reports it."""
    try:
        return bool(read_mask(path, values, threshold).any())
    except (ShardError, OSError):
        return True


def _meta(item: _Item) -> dict[str, str]:
    """Return the entries of a sample's json besides the label."""
    return {} if item.patient is None else {"patient": item.patient}


def _sorted_labels(labels: Labels) -> tuple[str, ...]:
    """Return the labels found, sorted numerically if all are numbers, else alphabetically."""
    found = set(labels.label.values())
    numeric = all(label.isdecimal() for label in found)
    return tuple(sorted(found, key=lambda label: (int(label) if numeric else 0, label)))
