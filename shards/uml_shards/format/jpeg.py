"""Decode JPEG with simplejpeg, an optional package about twice as fast as Pillow, without changing any result.

simplejpeg decodes only valid grey and colour images, for which its pixels equal Pillow's. Pillow handles all other
files, including damaged ones, which it either refuses or decodes in part.
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
"""Stored colour space -> colour space of the array; others, such as CMYK, are not decoded."""

_SUBSAMPLINGS = ("444", "422", "420", "440", "411", "Gray")


def decode_jpeg(data: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """Decode a JPEG to the same pixels as Pillow.

    Args:
        data: bytes of the file.
        max_pixels: largest number of pixels to decode.

    Returns:
        Pixels (H, W, 1 or 3); None if Pillow must decode the file.
    """
    if simplejpeg is None or not _equals_pillow(simplejpeg):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in _COLOURS or int(height) * int(width) > max_pixels:
            return None
        return simplejpeg.decode_jpeg(data, _COLOURS[colours])  # strict: raises on damaged data
    except ValueError:
        return None


def is_used() -> bool:
    """Whether simplejpeg is installed and used."""
    return simplejpeg is not None and _equals_pillow(simplejpeg)


@cache
def _equals_pillow(decoder: ModuleType) -> bool:
    """Whether the decoder's pixels equal those of the installed Pillow, whose libjpeg may round differently.

    Tested on a small noise image with every chroma subsampling.
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
