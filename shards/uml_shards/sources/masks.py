"""Read mask files of any mode as class numbers, and resize masks by NEAREST."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from ..errors import ShardError
from .raw import bits, is_jpeg, is_sixteen_bit, load, open_raw, turn

MaskValues = Literal["binary", "classes"]

_HALF = 128
"""Threshold for JPEG masks, in which compression leaves grey values around every border."""


def read_mask(path: Path, values: MaskValues) -> NDArray[np.uint8]:
    """Read the classes of a mask file, (H, W) uint8.

    Args:
        path: PNG, TIFF or BMP of any mode with one number per pixel; for "binary" also JPEG.
        values: "binary": all values except 0 become 1; "classes": the numbers in the file, or the indices of a palette.

    Raises:
        ShardError: the file cannot be read, has an EXIF orientation, or its pixels cannot be interpreted as such
            numbers.
    """
    opened = open_raw(path)
    if turn(opened, path) is not None:
        raise ShardError(f"{path}: the mask has an EXIF orientation: store its pixels upright, without orientation")
    load(opened, path)
    return _foreground(opened, path) if values == "binary" else _numbers(opened, path)


def resize_mask(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a mask to (H, W) by NEAREST, which never mixes classes."""
    if mask.shape == size:
        return mask
    return np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))


def _foreground(opened: ImageFile, path: Path) -> NDArray[np.uint8]:
    """Return 1 where a binary mask is not 0."""
    if opened.mode in ("P", "PA"):
        return _palette_foreground(opened, path)
    if opened.mode in ("LA", "RGBA"):
        return _alpha_foreground(opened, path)
    grey = _grey(opened, path)
    if not is_jpeg(opened):
        return (grey != 0).astype(np.uint8)
    if 0 < grey.max() < _HALF:
        raise ShardError(f"{path}: the JPEG mask has no value above {grey.max()}: store it as PNG")
    return (grey >= _HALF).astype(np.uint8)


def _palette_foreground(opened: ImageFile, path: Path) -> NDArray[np.uint8]:
    """Return 1 where the palette colour is not black. Index 0 must be black."""
    indices = np.asarray(opened.getchannel("P"))
    coloured = np.asarray(opened.convert("RGBA"))[..., :3].any(axis=2)
    if (coloured & (indices == 0)).any():
        raise ShardError(
            f"{path}: index 0 of the mask's palette is not black: store the mask as grey, with 0 for the background"
        )
    return np.asarray(coloured, dtype=np.uint8)


def _alpha_foreground(opened: ImageFile, path: Path) -> NDArray[np.uint8]:
    """Return the foreground of a mask stored in the colour channels, in the alpha channel, or equally in both."""
    *colours, alpha = (np.asarray(band) for band in opened.split())
    if (alpha == 255).all():
        return np.asarray(_equal(colours, path) != 0, dtype=np.uint8)
    opaque, coloured = alpha != 0, np.any([band != 0 for band in colours], axis=0)
    uniform = all((band == band[0, 0]).all() for band in colours)
    if not uniform and (opaque != coloured).any():
        raise ShardError(f"{path}: colour and alpha of the mask contradict each other: store it as grey, without alpha")
    return opaque.astype(np.uint8)


def _numbers(opened: ImageFile, path: Path) -> NDArray[np.uint8]:
    """Return the class numbers of a mask."""
    if is_jpeg(opened):
        raise ShardError(f"{path}: JPEG does not preserve class numbers: store the mask as PNG")
    if opened.mode == "P":
        return np.asarray(opened)
    if opened.mode in ("LA", "RGBA"):
        *colours, alpha = (np.asarray(band) for band in opened.split())
        if (alpha != 255).any():
            raise ShardError(f"{path}: some pixels of the mask are transparent: store it as grey, without alpha")
        return _equal(colours, path)
    grey = _grey(opened, path)
    if grey.max() > 255:
        raise ShardError(f"{path}: mask value {grey.max()} is not a class: classes are 0 to 254, and 255 = ignore")
    # Pillow stretches grey values of 2 and 4 bits to 0..255.
    stretch = {2: 85, 4: 17}.get(bits(opened, path), 1) if opened.mode == "L" else 1
    return (grey // stretch).astype(np.uint8)


def _grey(opened: ImageFile, path: Path) -> NDArray[Any]:
    """Return one number per pixel of a file without palette and alpha."""
    if opened.mode == "RGB":
        return _equal([np.asarray(band) for band in opened.split()], path)
    if opened.mode not in ("1", "L") and not is_sixteen_bit(opened):
        raise ShardError(f"{path}: mask mode {opened.mode} is not supported: store it as 8-bit grey")
    return np.asarray(opened).astype(np.uint8 if opened.mode in ("1", "L") else np.uint16)


def _equal(bands: list[NDArray[np.uint8]], path: Path) -> NDArray[np.uint8]:
    """Return the values of bands, which must all be equal."""
    if any((band != bands[0]).any() for band in bands[1:]):
        raise ShardError(f"{path}: the mask is in colour: store it as grey or with a palette")
    return bands[0]
