"""I-SPY 1 (ACRIN 6657): breast MRI with tumour masks, and whether the response to chemotherapy was complete.

Slices of the volumes of one contrast phase, as UML takes them: those around the one in which the tumour is largest. All
slices of a patient are in one split. What UML's authors do otherwise: each slice scaled by its own range, slices of the
far end of a volume where the tumour is near its begin, and splits by the order of the table.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from ..errors import ShardError
from .base import Importer, Source
from .encode import encode_grey, encode_image, encode_json
from .ispy1_table import SHARES, draw_splits, read_outcomes
from .nifti import open_nifti, read_nifti


class Settings(BaseModel):
    """Settings of the importer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slices: int = Field(default=10, gt=0, description="of each patient, around the one with the largest tumour")
    low: float = Field(default=0.5, ge=0, lt=50, description="percentile of a volume's values that becomes black")
    high: float = Field(default=99.5, gt=50, le=100, description="percentile that becomes white")


@dataclass(frozen=True)
class _Item:
    patient: str
    image: Path
    mask: Path
    slice: int
    label: int


class Ispy1(Importer):
    """The tree of the copy that UML's authors name; slices as 8-bit grey, scaled by a window of the whole volume."""

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

    def splits(self) -> dict[str, Source]:
        """Patients drawn by --seed into train, val and test, 8 : 1 : 1 in each class.

        Raises:
            ShardError: the table is missing or wrong, no patient has files, or a patient's volumes do not fit.
        """
        assert self.raw is not None
        outcomes = read_outcomes(self.raw)
        split_of = draw_splits(outcomes, self.options.seed)
        found: dict[str, list[_Item]] = {split: [] for split in SHARES}
        for patient, label in outcomes.items():
            image = self.raw / "Dataset ISPY" / f"ISPY_{patient}" / "DCEMRI_1.nii"
            mask = self.raw / "Tumor_segmentation_new" / f"ISPY_{patient}_tumor_mask.nii"
            for path in (image, mask):
                if not path.is_file():
                    raise ShardError(f"ispy1: {path} of the table's patient {patient} is missing")
            chosen = choose_slices(_tumour(image, mask), self.settings.slices)
            if not chosen:
                raise ShardError(f"ispy1: {mask} marks no tumour: take patient {patient} out of the table")
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
        """One slice, turned as the authors turn it, with its tumour."""
        volume = _windowed(item.image, self.settings.low, self.settings.high)
        tumour = read_nifti(item.mask)[..., item.slice] > 0
        image = Image.fromarray(np.flipud(np.rot90(volume[..., item.slice])))
        mask = Image.fromarray(np.flipud(np.rot90(tumour)).astype(np.uint8))
        size = (self.size, self.size) if self.size else image.size
        image = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
        mask = np.asarray(mask.resize(size, Image.Resampling.NEAREST))
        extension, data = encode_image(image, self.options.lossless)
        meta = {"patient": item.patient, "slice": item.slice}
        components = {extension: data, "mask.png": encode_grey(mask), "json": encode_json(item.label, meta)}
        return f"ispy1-{item.patient}-{item.slice:03d}", components


IMPORTER = Ispy1


def choose_slices(sizes: NDArray[np.int64], count: int) -> list[int]:
    """The slices with a tumour that are nearest to the one where it is largest, ascending.

    Args:
        sizes: (D,) pixels of the tumour in each slice.
        count: at most so many.
    """
    marked = np.flatnonzero(sizes)
    if not len(marked):
        return []
    order = np.argsort(np.abs(marked - int(np.argmax(sizes))), kind="stable")
    return sorted(marked[order[:count]].tolist())


def _tumour(image: Path, mask: Path) -> NDArray[np.int64]:
    """Pixels of the tumour in each slice."""
    if (shape := open_nifti(image).shape) != (marked := open_nifti(mask).shape):
        raise ShardError(f"ispy1: {image} is {shape}, {mask} is {marked}: they must have the same shape")
    return (read_nifti(mask) > 0).sum((0, 1))


@lru_cache(maxsize=2)
def _windowed(path: Path, low: float, high: float) -> NDArray[np.uint8]:
    """A volume in 8 bits, by two percentiles of all its values."""
    values = read_nifti(path)
    black, white = np.percentile(values, [low, high])
    if white <= black:
        raise ShardError(f"{path}: the values of its percentiles {low} and {high} are the same, {black:g}")
    return np.round(np.clip((values - black) / (white - black), 0, 1) * 255).astype(np.uint8)
