"""JPEG by simplejpeg, an optional package of about twice Pillow's speed, which changes no result.

It decodes what it gives the very pixels of that Pillow would give: sound grey and colour images. All else is left to
Pillow: what it refuses, and damaged data of which it still makes an image.
"""

from functools import cache
from importlib import import_module
from io import BytesIO
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

simplejpeg: ModuleType | None
try:
    simplejpeg = import_module("simplejpeg")
except ImportError:
    simplejpeg = None

_COLOURS = {"Gray": "GRAY", "YCbCr": "RGB", "RGB": "RGB"}
"""Stored colours -> those of the array; others, such as CMYK, are not decoded."""

_SUBSAMPLINGS = ("444", "422", "420", "440", "411", "Gray")


def decode_jpeg(data: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """The pixels (H, W, 1 or 3) that Pillow would give; None where it is to be asked itself.

    Args:
        data: of the file.
        max_pixels: of more, none is decoded.
    """
    if simplejpeg is None or not _equals_pillow(simplejpeg):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in _COLOURS or int(height) * int(width) > max_pixels:
            return None
        return simplejpeg.decode_jpeg(data, _COLOURS[colours])  # strict: of damaged data it makes no image
    except ValueError:
        return None


def is_used() -> bool:
    """Whether simplejpeg is installed, and used."""
    return simplejpeg is not None and _equals_pillow(simplejpeg)


@cache
def _equals_pillow(decoder: ModuleType) -> bool:
    """Whether its pixels are those of this Pillow, whose libjpeg may be one of other rounding.

    Tried on a small image of noise at every subsampling.
    """
    noise = np.random.default_rng(0).integers(0, 256, (37, 45, 3), dtype=np.uint8)
    for subsampling in _SUBSAMPLINGS:
        grey = subsampling == "Gray"
        image = noise[..., :1].copy() if grey else noise
        data = decoder.encode_jpeg(image, 80, "GRAY" if grey else "RGB", subsampling)
        pixels = decoder.decode_jpeg(data, "GRAY" if grey else "RGB")
        if not np.array_equal(pixels.squeeze(), np.asarray(JpegImageFile(BytesIO(data)))):
            return False
    return True
