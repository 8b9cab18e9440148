"""Read raw image files of any mode as 8-bit grey, RGB or 16-bit grey, or refuse them with a one-line error.

Silent conversions of decoders are refused: 16-bit colour cut to 8 bits, dropped transparency, dropped pages.
"""

import warnings
from io import BytesIO
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from ..errors import ShardError, reading
from .metadata import png_chunks

MAX_SOURCE_PIXELS = 1 << 28
"""Largest raw image or mask that is opened, in pixels; real dermoscopy masks have up to 30 million."""

# Pillow tries no other format: an EPS file, for example, would start Ghostscript.
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP")

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_raw(path: Path) -> ImageFile:
    """Open a raw image file without decoding its pixels.

    Raises:
        ShardError: the file is missing, is not PNG, JPEG, TIFF or BMP, is too large, has several pages, or cannot be
            decoded without loss.
    """
    # Raw masks exceed Pillow's limit, which warns on stderr. Our limit is checked below, before decoding.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with reading(path), warnings.catch_warnings(action="ignore"):  # damage is reported as an error
            data = path.read_bytes()
            try:
                opened = Image.open(BytesIO(data), formats=_FORMATS)
            except UnidentifiedImageError:  # its message shows an object, not the file
                raise ValueError("it is not a PNG, JPEG, TIFF or BMP file, or it is damaged") from None
            pages = 1 if is_jpeg(opened) else int(getattr(opened, "n_frames", 1))
            zero_is_white = isinstance(opened, TiffImagePlugin.TiffImageFile) and opened.tag_v2.get(262) == 0
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    if opened.width * opened.height > MAX_SOURCE_PIXELS:
        raise ShardError(f"{path}: {opened.height}x{opened.width} exceeds the limit of {MAX_SOURCE_PIXELS} pixels")
    if pages != 1:
        raise ShardError(f"{path}: contains {pages} pages, must contain one")
    if bits(opened, path) > 8 and not is_sixteen_bit(opened) and opened.mode not in ("I", "F"):
        raise ShardError(f"{path}: 16-bit colour is not supported: store the image with 8 bits per channel")
    if zero_is_white and is_sixteen_bit(opened):
        raise ShardError(f"{path}: 16-bit TIFF in which 0 is white would be read inverted: store it with 0 as black")
    return opened


def load(opened: ImageFile, path: Path) -> None:
    """Decode the pixels.

    Raises:
        ShardError: the data are damaged.
    """
    with reading(path), warnings.catch_warnings(action="ignore"):  # damage is reported as an error
        opened.load()


def load_plain(opened: ImageFile, path: Path) -> Image.Image:
    """Decode an image of any mode to a mode that shards support: L, RGB, or 16-bit grey.

    Palette and CMYK become RGB, 1 bit becomes 0 and 255, and an alpha channel that is 255 everywhere is dropped.

    Raises:
        ShardError: the image is damaged, has transparent pixels, or has an unsupported mode (32 bits, Lab).
    """
    load(opened, path)
    mode = opened.mode
    if mode in ("L", "RGB") or is_sixteen_bit(opened):
        return opened
    with reading(path):  # palettes and transparency are interpreted here
        if mode == "1":
            return opened.convert("L")
        if mode in ("CMYK", "YCbCr"):
            return opened.convert("RGB")
        if mode not in ("P", "PA", "LA", "RGBA"):
            raise ShardError(
                f"{path}: image mode {mode} is not supported: store it as 8-bit grey or RGB, or as 16-bit grey"
            )
        image = opened.convert("RGBA") if mode in ("P", "PA") else opened
        if image.getchannel("A").getextrema() != (255, 255):
            raise ShardError(f"{path}: some pixels are transparent: store the image on a background, without alpha")
        return image.convert("L" if mode == "LA" else "RGB")


def as_array(image: Image.Image) -> NDArray[Any]:
    """Return the pixels of an image from `load_plain`: uint8, or uint16 with every value as stored."""
    array = np.asarray(image)
    return array if array.dtype == np.uint8 else array.astype(np.uint16)


def is_jpeg(opened: Image.Image) -> bool:
    """Whether the file is a JPEG. MPO is a camera's JPEG with appended previews."""
    return opened.format in ("JPEG", "MPO")


def is_sixteen_bit(opened: Image.Image) -> bool:
    """Whether the image is 16-bit grey."""
    return opened.mode in _SIXTEEN_BIT


def bits(opened: Image.Image, path: Path) -> int:
    """Return the bits per channel in the file, which the decoded pixels do not reveal.

    Raises:
        ShardError: the header is damaged.
    """
    with reading(path):
        if opened.format == "PNG":
            head = takewhile(lambda chunk: chunk[0] != b"IDAT", png_chunks(path.read_bytes()))
            return max(chunk[16] for name, chunk in head if name == b"IHDR")
        if isinstance(opened, TiffImagePlugin.TiffImageFile):
            found = opened.tag_v2.get(258, 1)
            return int(max(found) if isinstance(found, tuple) else found)
    return 8


def turn(opened: ImageFile, path: Path) -> Image.Transpose | None:
    """Return the transposition that applies the EXIF orientation; None if there is nothing to do.

    Raises:
        ShardError: the EXIF data, or the PNG that contains them, are damaged.
    """
    if opened.format == "TIFF":  # Pillow applies the orientation itself
        return None
    with reading(path):
        return _TURNS.get(opened.getexif().get(ExifTags.Base.Orientation, 1))


def is_turned(opened: ImageFile, path: Path) -> bool:
    """Whether the file has an EXIF orientation other than upright. Call it before decoding the pixels.

    Raises:
        ShardError: the EXIF data, or the PNG that contains them, are damaged.
    """
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        return opened.tag_v2.get(ExifTags.Base.Orientation, 1) != 1
    return turn(opened, path) is not None


def upright_size(opened: ImageFile, path: Path) -> tuple[int, int]:
    """Return (H, W) of the image after applying its EXIF orientation."""
    return (opened.width, opened.height) if turns_sides(turn(opened, path)) else (opened.height, opened.width)


def turns_sides(method: Image.Transpose | None) -> bool:
    """Whether a transposition swaps height and width."""
    return method in (_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8])
