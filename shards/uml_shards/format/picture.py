"""Decode 2D image files to numpy arrays. Only an explicit list of formats and modes is accepted.

Silent conversions of general decoders, which corrupt masks and 16-bit images, are refused: palette or alpha to RGB,
16 bits to 8, grey levels of 1, 2 or 4 bits stretched to 255, dropped pages.
"""

from collections.abc import Callable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import JpegImagePlugin, PngImagePlugin, TiffImagePlugin
from PIL.ImageFile import ImageFile

from ..errors import ShardError, reading
from ..sample import IGNORE
from .grey_png import decode_grey_png
from .jpeg import decode_jpeg

# The plugins are called directly: Image.open would guess the format from the bytes, and would warn about large images
# on stderr before our own limit is checked.
_OPENERS: dict[str, Callable[[BytesIO], ImageFile]] = {
    "jpg": JpegImagePlugin.JpegImageFile,
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "tif": TiffImagePlugin.TiffImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
}

MAX_PIXELS = 1 << 26
"""Largest number of pixels that is decoded, 8192 x 8192: a header of a few bytes can claim more."""

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B")
_TIFF_BITS = 258
"""The TIFF tag BitsPerSample."""


def decode_image(data: bytes, extension: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Decode an image: JPEG, PNG or TIFF, grey or RGB of 8 bits, or grey of 16 bits.

    Returns:
        (H, W, 1 or 3), uint8, or uint16 with every value as stored.

    Raises:
        ShardError: the format, mode or bit depth is not supported, there are too many pixels or several pages, or the
            data are damaged.
    """
    if extension in ("jpg", "jpeg") and (pixels := decode_jpeg(data, MAX_PIXELS)) is not None:
        return pixels
    with reading(f"{extension}:"):
        return _decode(data, extension)


def _decode(data: bytes, extension: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Decode an image with Pillow, which raises errors of many classes on damaged files."""
    opened = _open(data, extension)
    if _bits(opened, data) == 16 and opened.mode not in (*_SIXTEEN_BIT, "I"):
        raise ShardError(f"{extension}: 16-bit colour is not supported: store the image with 8 bits per channel")
    # Pillow before 11 opens a 16-bit grey PNG in mode "I" (32 bits); a TIFF in that mode really has 32 bits.
    sixteen = opened.mode in _SIXTEEN_BIT or (opened.mode == "I" and extension == "png")
    if not sixteen and opened.mode not in ("L", "RGB"):
        raise ShardError(f"{extension}: image mode {opened.mode} is not supported: use grey or RGB without alpha")
    array = np.asarray(opened)
    array = array[..., None] if array.ndim == 2 else array
    return array.astype(np.uint16, copy=False) if sixteen else array.astype(np.uint8, copy=False)


def _bits(opened: ImageFile, data: bytes) -> int:
    """Return the stored bits per channel, which the decoder's mode does not reveal."""
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        found = opened.tag_v2.get(_TIFF_BITS, 1)
        return max(found) if isinstance(found, tuple) else int(found)
    return data[24] if isinstance(opened, PngImagePlugin.PngImageFile) else 8


def decode_mask(data: bytes, classes: int, extension: str = "mask.png") -> NDArray[np.uint8]:
    """Decode a class map: an 8-bit grey PNG whose values are class numbers or 255 = ignore.

    Returns:
        (H, W) uint8.

    Raises:
        ShardError: the file is not such a PNG, or a value is not a class number.
    """
    mask = decode_grey(data, extension)
    # Adding 1 wraps 255 = ignore to 0, so a single pass checks all values.
    if (mask + np.uint8(1)).max() > classes:
        value = int(mask[(mask >= classes) & (mask != IGNORE)][0])
        raise ShardError(f"{extension}: value {value} is out of range: {classes} mask classes, and 255 = ignore")
    return mask


def decode_grey(data: bytes, extension: str) -> NDArray[np.uint8]:
    """Decode an 8-bit grey PNG to (H, W) uint8, every value as stored.

    Raises:
        ShardError: the file is not such a PNG, or is damaged.
    """
    if (values := decode_grey_png(data, MAX_PIXELS)) is not None:
        return values
    with reading(f"{extension}:"):
        opened = _open(data, "png", extension)
        depth, colour = data[24], data[25]
        if (depth, colour) != (8, 0):
            raise ShardError(f"{extension}: must be an 8-bit grey PNG, but has {depth} bits and colour type {colour}")
        return np.asarray(opened)


def _open(data: bytes, image_format: str, extension: str | None = None) -> ImageFile:
    """Read the header only, and refuse files that must not be decoded."""
    extension = extension or image_format
    opened = _OPENERS[image_format](BytesIO(data))
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise ShardError(f"{extension}: {height}x{width} exceeds the limit of {MAX_PIXELS} pixels: resize it")
    # Counting all pages of a file of thousands takes minutes.
    if getattr(opened, "is_animated", False):
        raise ShardError(f"{extension}: contains several pages, must contain one")
    return opened
