"""I-SPY 1 (ACRIN 6657): breast MRI with tumour masks, and whether the response to chemotherapy was complete.

The samples are slices of the volumes of one contrast phase, as in UML: those around the slice with the largest tumour.
All slices of a patient are in one split.

The settings split=table, slice_rule=upward and scale=slice choose splits, slices and intensities like UML's authors.
Two differences remain for all settings. Near the first slice of a volume, the authors' search continues at negative
indices, which are slices at the far end; here it ends at the first slice. The authors store images and masks as JPEG in
the volume's size; here masks are stored losslessly and both are resized (`--size 0` keeps the volume's size).
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..errors import ShardError
from ..sources.binary import foreground
from ..sources.encode import encode_grey, encode_image, encode_json
from ..sources.nifti import nifti_shape, read_nifti
from .base import Importer, Options, Source
from .ispy1_table import SHARES, draw_splits, order_splits, read_outcomes

_LATER = frozenset({"split", "slice_rule", "scale"})
_OF_VOLUME_SCALE = frozenset({"low", "high"})


class Settings(BaseModel):
    """Settings of the importer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["seeded", "table"] = Field(
        default="seeded",
        description="seeded: patients drawn by --seed; table: in the order of the table, like UML's authors",
    )
    slices: int = Field(default=10, gt=0, description="slices per patient, around the one with the largest tumour")
    slice_rule: Literal["nearest", "upward"] = Field(
        default="nearest",
        description="nearest: slices nearest to the largest tumour, fewer if the volume has fewer; upward: exactly "
        "this number, searching upward from below it, like UML's authors",
    )
    scale: Literal["volume", "slice"] = Field(
        default="volume",
        description="volume: by low and high; slice: by each slice's minimum and maximum, like UML's authors",
    )
    low: float = Field(default=0.5, ge=0, lt=50, description="percentile of a volume's values mapped to black")
    high: float = Field(default=99.5, gt=50, le=100, description="percentile of a volume's values mapped to white")

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        if self.scale == "slice" and (unused := sorted(_OF_VOLUME_SCALE & self.model_fields_set)):
            raise ValueError(f"{unused[0]} has no effect with scale=slice: remove it")
        return self


@dataclass(frozen=True)
class _Item:
    patient: str
    image: Path
    mask: Path
    slice: int
    label: int


class Ispy1(Importer):
    """Reads the copy of the data set named by UML's authors; slices are stored as 8-bit grey."""

    name = "ispy1"
    summary = "157 patients with breast cancer, slices of MRI with the tumour, pathologic complete response or not"
    licence = "CC BY 3.0, the default of The Cancer Imaging Archive; for the copy see the terms on its page"
    source = "I-SPY 1 / ACRIN 6657, https://www.cancerimagingarchive.net/collection/ispy1; cite as that page asks"
    where = "download saarthakkapse/ispy1-trail-dataset from kaggle.com and unpack it into RAW"
    tree = """\
RAW/Dataset ISPY/ISPY_<SUBJECTID>/DCEMRI_1.nii
RAW/Tumor_segmentation_new/ISPY_<SUBJECTID>_tumor_mask.nii
RAW/outcome_new.xlsx or outcome_new.csv, with the columns SUBJECTID and PCR (0 or 1)
needs the extras volumes, and tables for .xlsx"""
    default_size = 256
    settings_type = Settings
    settings: Settings

    def __init__(self, raw: str | Path | None = None, options: Options | None = None) -> None:
        super().__init__(raw, options)
        if self.settings.split == "table" and self.options.seed:
            raise ShardError(f"ispy1: --seed {self.options.seed} has no effect with split=table: remove it")

    @property
    def manifest_options(self) -> dict[str, Any]:
        """The options stored in the manifest, without those that have no effect."""
        # Settings in _LATER are omitted at their defaults. The manifest then equals that of shards written before these
        # settings existed, so finished splits are recognised and runs can continue with rebuilt shards.
        left_out = {key for key in _LATER if getattr(self.settings, key) == Settings.model_fields[key].default}
        if self.settings.scale == "slice":
            left_out |= _OF_VOLUME_SCALE
        if self.settings.split == "table":
            left_out.add("seed")
        return {key: value for key, value in super().manifest_options.items() if key not in left_out}

    def splits(self) -> dict[str, Source]:
        """Return train, val and test, split by patient about 8 : 1 : 1 in each class, by --seed or in table order.

        Raises:
            ShardError: the table is missing or invalid, a patient's files are missing or do not match, or too few
                slices show a tumour.
        """
        assert self.raw is not None
        outcomes = read_outcomes(self.raw)
        in_order = self.settings.split == "table"
        split_of = order_splits(outcomes) if in_order else draw_splits(outcomes, self.options.seed)
        found: dict[str, list[_Item]] = {split: [] for split in SHARES}
        for patient, label in outcomes.items():
            image = self.raw / "Dataset ISPY" / f"ISPY_{patient}" / "DCEMRI_1.nii"
            mask = self.raw / "Tumor_segmentation_new" / f"ISPY_{patient}_tumor_mask.nii"
            for path in (image, mask):
                if not path.is_file():
                    raise ShardError(f"ispy1: {path} of patient {patient} in the table is missing")
            chosen = self._choose(patient, image, mask)
            found[split_of[patient]] += [_Item(patient, image, mask, number, label) for number in chosen]
        return {
            split: Source(
                items=items,
                classes=("residual_disease", "complete_response"),
                mask_classes=("background", "tumour"),
                tasks={"complete_response": (1,)},
            )
            for split, items in found.items()
            if items
        }

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        """Encode one slice and its tumour mask, oriented as by the authors."""
        if self.settings.scale == "slice":
            grey = _stretched(item.image, item.slice)
        else:
            grey = _windowed(item.image, self.settings.low, self.settings.high)[..., item.slice]
        tumour = _marked(item.mask)[..., item.slice]
        image = Image.fromarray(np.flipud(np.rot90(grey)))
        mask = Image.fromarray(np.flipud(np.rot90(tumour)).astype(np.uint8))
        size = (self.size, self.size) if self.size else image.size
        image = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
        mask = np.asarray(mask.resize(size, Image.Resampling.NEAREST))
        extension, data = encode_image(image, self.options.lossless)
        meta = {"patient": item.patient, "slice": item.slice}
        components = {extension: data, "mask.png": encode_grey(mask), "json": encode_json(item.label, meta)}
        return f"ispy1-{item.patient}-{item.slice:03d}", components

    def _choose(self, patient: str, image: Path, mask: Path) -> list[int]:
        """Choose the slices of a patient by the configured rule."""
        sizes, count = _tumour(image, mask), self.settings.slices
        if not sizes.any():
            raise ShardError(f"ispy1: {mask} marks no tumour: remove patient {patient} from the table")
        if self.settings.slice_rule == "nearest":
            return choose_slices(sizes, count)
        chosen = choose_upward(sizes, count)
        if len(chosen) < count:
            raise ShardError(
                f"ispy1: {mask}: slice_rule=upward finds {len(chosen)} slices with a tumour but needs {count}: remove "
                f"patient {patient} from the table, set fewer slices, or use slice_rule=nearest"
            )
        return chosen


IMPORTER = Ispy1


def choose_slices(sizes: NDArray[np.int64], count: int) -> list[int]:
    """Return the slices with a tumour that are nearest to the slice with the largest tumour, ascending.

    Args:
        sizes: (D,) tumour pixels in each slice.
        count: largest number of slices.
    """
    marked = np.flatnonzero(sizes)
    if not len(marked):
        return []
    order = np.argsort(np.abs(marked - int(np.argmax(sizes))), kind="stable")
    return sorted(marked[order[:count]].tolist())


def choose_upward(sizes: NDArray[np.int64], count: int) -> list[int]:
    """Return the slices with a tumour chosen by UML's authors, ascending.

    The first `count` slices with a tumour are taken in two passes: upward from count // 2 slices below the one with the
    largest tumour to the last slice, then downward over the count - 1 slices below the start. Unlike the authors' code,
    both passes stay inside the volume.

    Args:
        sizes: (D,) tumour pixels in each slice.
        count: largest number of slices.
    """
    start = int(np.argmax(sizes)) - count // 2
    upward = range(max(start, 0), len(sizes))
    downward = range(start - 1, max(start - count, -1), -1)
    return sorted([number for number in (*upward, *downward) if sizes[number]][:count])


def _tumour(image: Path, mask: Path) -> NDArray[np.int64]:
    """Return the number of tumour pixels in each slice."""
    if (shape := nifti_shape(image)) != (marked := nifti_shape(mask)):
        raise ShardError(f"ispy1: {image} is {shape}, {mask} is {marked}: they must have the same shape")
    return _marked(mask).sum((0, 1), dtype=np.int64)


@lru_cache(maxsize=2)
def _marked(path: Path) -> NDArray[np.uint8]:
    """Return 1 where a mask marks the tumour."""
    return foreground(read_nifti(path), path)[0]


@lru_cache(maxsize=2)
def _windowed(path: Path, low: float, high: float) -> NDArray[np.uint8]:
    """Convert a volume to 8 bits, scaled by two percentiles of all its values."""
    values = read_nifti(path)
    black, white = np.percentile(values, [low, high])
    if white <= black:
        raise ShardError(f"{path}: percentiles {low} and {high} have the same value, {black:g}: change low or high")
    return _grey(values, black, white)


def _stretched(path: Path, number: int) -> NDArray[np.uint8]:
    """Convert a slice to 8 bits, scaled by its own minimum and maximum."""
    values = read_nifti(path)[..., number]
    black, white = values.min(), values.max()
    if white <= black:
        raise ShardError(f"{path}: all values of slice {number} are {black:g}: use scale=volume")
    return _grey(values, black, white)


def _grey(values: NDArray[np.float32], black: Any, white: Any) -> NDArray[np.uint8]:
    return np.round(np.clip((values - black) / (white - black), 0, 1) * 255).astype(np.uint8)
