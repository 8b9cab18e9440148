"""What importers of fundus photographs share: finding the images, and storing them cropped to the retina."""

from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from ..errors import ShardError
from ..sources.encode import encode_image, encode_json
from ..sources.raw import load_plain, open_raw
from ..sources.retina import Box, find_disc, square_around
from ..sources.walk import is_hidden, walk_files
from .base import Importer, Source
from .folder_tree import PICTURES, Note, note_unused


class FundusSettings(BaseModel):
    """Settings of all importers of fundus photographs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: Literal["retina", "none"] = Field(
        default="retina", description="retina: to the square around the retina's disc; none: to that around the image"
    )


@dataclass(frozen=True)
class Photograph:
    """A photograph and its grade.

    Attributes:
        key: key of the sample.
        image: image file.
        label: number of the grade, or None if it is unknown.
        meta: further entries of the json.
    """

    key: str
    image: Path
    label: int | None
    meta: Mapping[str, Any] = field(default_factory=dict)


class FundusImporter(Importer):
    """Base class of importers whose items are of type `Photograph`.

    An image is cropped to a square, black where the square reaches beyond the image, and resized by Pillow's BICUBIC,
    which averages when it shrinks.
    """

    default_size = 640
    settings_type = FundusSettings

    def splits(self) -> dict[str, Source]:
        """Return the splits that have images.

        Raises:
            ShardError: files, tables or rows are missing or invalid.
        """
        try:
            return {split: source for split, source in self.find_splits().items() if source.items}
        except ShardError as error:
            raise ShardError(f"{self.name}: {error}") from None

    @abstractmethod
    def find_splits(self) -> dict[str, Source]:
        """Return the splits, some perhaps without images; errors do not have to name the importer."""

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        """Encode a photograph and its grade."""
        image = read_photograph(item.image)
        return item.key, self.encode_square(item, image, self.find_square(image))

    def find_square(self, image: Image.Image) -> Box:
        """Return the square to crop to; around the image if no disc is found, which is noted."""
        disc = find_disc(image) if self.settings.crop == "retina" else None
        if disc is None and self.settings.crop == "retina":
            self.note("images without a disc on black, kept whole")
        return square_around(disc or (0, 0, image.width, image.height))

    def side_of(self, square: Box) -> int:
        """Return the height and width to store."""
        return self.size or square[2] - square[0]

    def encode_square(self, item: Photograph, image: Image.Image, square: Box) -> dict[str, bytes]:
        """Return the components for the image, cropped and resized, and for its grade."""
        side = self.side_of(square)
        shown = image.crop(square)  # Pillow fills with black what lies beyond the image
        resized = shown.resize((side, side), Image.Resampling.BICUBIC)
        extension, data = encode_image(np.asarray(resized), self.options.lossless)
        return {extension: data, "json": encode_json(item.label, {**item.meta, "crop": square})}


def read_photograph(path: Path) -> Image.Image:
    """Read an image file as RGB. Its EXIF orientation is not applied, since masks are drawn on the stored pixels.

    Raises:
        ShardError: the file cannot be read, has transparent pixels, or has 16 bits.
    """
    image = load_plain(open_raw(path), path)
    if image.mode not in ("L", "RGB"):
        raise ShardError(f"{path}: the image has 16 bits: store it with 8 bits per channel")
    return image.convert("RGB")


def find_photographs(folder: Path, note: Note, beside: Collection[Path] = ()) -> dict[str, Path]:
    """Map name without extension -> image, for all images in a folder and its subfolders.

    Args:
        folder: the folder.
        note: told how many other files there are.
        beside: other files that are used, such as a table.

    Raises:
        ShardError: the folder is missing, or two images have the same name.
    """
    if not folder.is_dir():
        raise ShardError(f"folder {folder} is missing (`shards.py datasets` prints the tree)")
    found: dict[str, Path] = {}
    unused = []
    for path in walk_files(folder):
        if path in beside:
            continue
        if path.suffix.lower() not in PICTURES or is_hidden(path.relative_to(folder)):
            unused.append(path)
        elif found.setdefault(path.stem, path) != path:
            raise ShardError(f"{found[path.stem]} and {path} have the same name: remove one")
    note_unused(folder, unused, note)
    return found
