"""REFUGE 2018, "Retinal Fundus Glaucoma Challenge": fundus photographs with optic disc and cup, glaucoma or not.

Orlando et al., Medical Image Analysis 59 (2020), doi:10.1016/j.media.2019.101570. In the original masks, 0 is the cup,
128 the rest of the disc and 255 the background. The stored classes are 0 background, 1 rim (disc without cup) and
2 cup. The challenge's optic disc is rim and cup together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from ..errors import ShardError, reading
from ..sources.encode import encode_file, encode_grey, encode_image, encode_json
from ..sources.raw import load, open_raw
from ..sources.table import read_table
from ..sources.walk import walk_files
from .base import Importer, Source

# Folders of images and of annotations, as the archives unpack and under other common names.
_SPLITS = {
    "train": (("Training400", "Train/Train400"), ("Annotation-Training400", "Train/Train400-GT")),
    "val": (("REFUGE-Validation400", "Valid/Valid400"), ("REFUGE-Validation400-GT", "Valid/Valid400-GT")),
    "test": (("Test400", "Test/Test400"), ("REFUGE-Test-GT", "Test/Test400-GT")),
}
_NAMES = ("imgname", "image", "filename")
_LABELS = ("glaucoma label", "label(glaucoma=1)", "glaucoma", "label")
_FOLDERS = {"glaucoma": 1, "non-glaucoma": 0}
_GREYS = {0: 2, 128: 1, 255: 0}


class Settings(BaseModel):
    """Settings of the importer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: Literal["none", "disc"] = Field(
        default="none",
        description="disc: keep only a square around the marked disc; in the complete photograph the cup is tiny",
    )
    margin: float = Field(default=0.5, ge=0, description="margin of the crop on each side, in disc widths")


@dataclass(frozen=True)
class _Item:
    key: str
    image: Path
    mask: Path
    label: int


class Refuge(Importer):
    """Reads the organisers' unpacked archives, or the layout used by UML's authors, and keeps the official splits."""

    name = "refuge"
    summary = "400 + 400 + 400 fundus photographs, optic disc rim and cup, glaucoma or not"
    licence = "not stated on the pages of the challenge, which asks for a registration: see the terms there"
    source = "REFUGE 2018, https://refuge.grand-challenge.org; cite Orlando et al., Medical Image Analysis 59, 2020"
    where = "register at https://refuge.grand-challenge.org, download the six archives and unpack each into RAW"
    tree = """\
RAW/Training400/{Glaucoma,Non-Glaucoma}/*.jpg                       or RAW/Train/Train400/*.jpg
RAW/Annotation-Training400/**/Disc_Cup_Masks/**/*.bmp               or RAW/Train/Train400-GT/Disc_Cup_Masks/*.bmp
RAW/REFUGE-Validation400/*.jpg, RAW/REFUGE-Validation400-GT/**      or RAW/Valid/Valid400, RAW/Valid/Valid400-GT
RAW/Test400/*.jpg, RAW/REFUGE-Test-GT/**                            or RAW/Test/Test400, RAW/Test/Test400-GT
labels: folders Glaucoma and Non-Glaucoma, or a table beside the masks, .csv or .xlsx, with the columns
ImgName and "Glaucoma Label" or "Label(Glaucoma=1)"; splits without images are omitted"""
    default_size = 256
    settings_type = Settings

    def splits(self) -> dict[str, Source]:
        """Return the official splits whose images are present.

        Raises:
            ShardError: no split is present, or an image has no mask, no label, or contradictory labels.
        """
        assert self.raw is not None
        found = {}
        for split, (images, truths) in _SPLITS.items():
            folder, truth = _first(self.raw, images), _first(self.raw, truths)
            if folder is None:
                continue
            if truth is None:
                raise ShardError(f"refuge: {folder} exists, but none of {', '.join(truths)} does")
            found[split] = Source(
                items=_items(folder, truth),
                classes=("no_glaucoma", "glaucoma"),
                mask_classes=("background", "rim", "cup"),
                tasks={"glaucoma": (1,)},
            )
        if not found:
            raise ShardError(
                f"refuge: {self.raw} contains neither Training400 nor Train/Train400: unpack the archives there"
            )
        return found

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        """Encode photograph, mask and label of one eye."""
        mask = _read_mask(item.mask)
        meta: dict[str, Any] = {}
        if self.settings.crop == "none":
            extension, image, (height, width) = encode_file(item.image, self.size, self.options.lossless)
            _same_size(item, mask)
        else:
            opened = open_raw(item.image)
            _same_size(item, mask)
            box = _disc_box(mask, self.settings.margin, item.mask)
            height, width = (self.size, self.size) if self.size else (box[3] - box[1], box[2] - box[0])
            load(opened, item.image)
            cropped = opened.convert("RGB").resize((width, height), Image.Resampling.BICUBIC, box=box)
            extension, image = encode_image(np.asarray(cropped), self.options.lossless)
            mask, meta = mask[box[1] : box[3], box[0] : box[2]], {"crop": box}
        stored = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
        components = {extension: image, "mask.png": encode_grey(np.asarray(stored))}
        return item.key, {**components, "json": encode_json(item.label, meta)}


IMPORTER = Refuge


def _first(raw: Path, names: tuple[str, ...]) -> Path | None:
    return next((raw / name for name in names if (raw / name).is_dir()), None)


def _items(folder: Path, truth: Path) -> list[_Item]:
    images, masks = _by_stem(folder, ".jpg"), _by_stem(truth, ".bmp")
    table = _table(truth)
    for what, surplus in (("mask", images.keys() - masks.keys()), ("image", masks.keys() - images.keys())):
        if surplus:
            raise ShardError(f"refuge: {len(surplus)} samples of {folder} have no {what}, first {min(surplus)}")
    return [_Item(key, images[key], masks[key], _label(key, images[key], masks[key], table)) for key in sorted(images)]


def _by_stem(folder: Path, ending: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in walk_files(folder):
        if path.suffix.lower() != ending or path.name.startswith("."):
            continue
        if path.stem in found:
            raise ShardError(f"refuge: {path} and {found[path.stem]} have the same name: keep one")
        found[path.stem] = path
    if not found:
        raise ShardError(f"refuge: {folder} contains no {ending} files")
    return found


def _table(truth: Path) -> dict[str, int]:
    """Read labels by image name from all tables in the folder with a label column; empty without one."""
    labels: dict[str, int] = {}
    for path in walk_files(truth):
        if path.suffix.lower() not in (".csv", ".xlsx") or path.name.startswith((".", "~")):
            continue
        for number, row in enumerate(read_table(path), start=2):
            fields = {str(name).strip().lower(): value for name, value in row.items()}
            name = next((fields[alias] for alias in _NAMES if alias in fields), None)
            label = next((fields[alias] for alias in _LABELS if alias in fields), None)
            if name is None or label is None:
                break  # another table, such as the fovea positions
            if str(label) not in ("0", "1", "0.0", "1.0"):
                raise ShardError(f"refuge: {path} row {number}: label {label!r} of {name} must be 0 or 1")
            labels[Path(str(name)).stem] = int(float(label))
    return labels


def _label(key: str, image: Path, mask: Path, table: Mapping[str, int]) -> int:
    """Return the label given by table and folders, which must agree."""
    labels = {_FOLDERS[part.lower()] for path in (image, mask) for part in path.parts if part.lower() in _FOLDERS}
    if key in table:
        labels.add(table[key])
    if len(labels) != 1:
        problem = "has contradictory labels" if labels else "has no label in a table or by its folder"
        raise ShardError(f"refuge: {image} {problem}: see the layout printed by `shards.py datasets`")
    return labels.pop()


def _read_mask(path: Path) -> NDArray[np.uint8]:
    """Read an original mask and return its classes (H, W).

    Raises:
        ShardError: the mask is not grey, or has values other than 0, 128 and 255.
    """
    opened = open_raw(path)
    with reading(path):
        drawn = np.asarray(opened.convert("L") if opened.mode == "P" else opened)
    if drawn.ndim == 3 and (drawn == drawn[..., :1]).all():
        drawn = drawn[..., 0]
    if drawn.ndim != 2:
        raise ShardError(f"{path}: mask mode {opened.mode} is not grey")
    classes = np.full(256, 255, dtype=np.uint8)
    classes[list(_GREYS)] = list(_GREYS.values())
    mask = classes[drawn]
    if (mask == 255).any():
        value = int(drawn[mask == 255][0])
        raise ShardError(
            f"{path}: mask value {value} is not 0 (cup), 128 (disc) or 255: the mask was probably resized or saved "
            "again, use the original file"
        )
    return mask


def _same_size(item: _Item, mask: NDArray[np.uint8]) -> None:
    width, height = open_raw(item.image).size
    if mask.shape != (height, width):
        raise ShardError(
            f"{item.mask} is {mask.shape[0]}x{mask.shape[1]}, but {item.image} is {height}x{width}: they must be equal"
        )


def _disc_box(mask: NDArray[np.uint8], margin: float, path: Path) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a square around the disc, inside the photograph."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise ShardError(f"{path} marks no disc to crop to: use --set crop=none")
    width = max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0])) + 1
    side = min(round(width * (1 + 2 * margin)), *mask.shape)
    top = min(max(int(rows[0] + rows[-1] + 1 - side) // 2, 0), mask.shape[0] - side)
    left = min(max(int(columns[0] + columns[-1] + 1 - side) // 2, 0), mask.shape[1] - side)
    return left, top, left + side, top + side
