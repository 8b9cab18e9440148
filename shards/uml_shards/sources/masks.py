"""Mask files of any mode, as class numbers; resized by NEAREST only."""

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
"""JPEG leaves greys around every border, so there black and white are told apart in the middle."""


def read_mask(path: Path, values: MaskValues) -> NDArray[np.uint8]:
    """The classes of a mask file, (H, W) uint8.

    Args:
        path: PNG, TIFF or BMP of any mode that means one number a pixel; for "binary" also JPEG.
        values: "binary": 0 and 1, where all that is not 0 is 1; "classes": the numbers in the file, of a palette the
            indices.

    Raises:
        ShardError: it cannot be read, is turned by its EXIF, or its pixels cannot be told to be such numbers.
    """
    opened = open_raw(path)
    if turn(opened, path) is not None:
        raise ShardError(f"{path}: a mask with an EXIF orientation: store its pixels upright, without one")
    load(opened, path)
    return _foreground(opened, path) if values == "binary" else _numbers(opened, path)


def resize_mask(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask (H, W) at another (H, W): the nearest pixel of the original, never a mixture."""
    if mask.shape == size:
        return mask
    return np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))


def _foreground(opened: ImageFile, path: Path) -> NDArray[np.uint8]:
    """1 where a binary mask is not 0."""
    if opened.mode in ("P", "PA"):
        return _palette_foreground(opened, path)
    if opened.mode in ("LA", "RGBA"):
        return _alpha_foreground(opened, path)
    grey = _grey(opened, path)
    if not is_jpeg(opened):
        return (grey != 0).astype(np.uint8)
    if 0 < grey.max() < _HALF:
        raise ShardError(f"{path}: a JPEG mask with values up to {grey.max()} only: store it as PNG")
    return (grey >= _HALF).astype(np.uint8)


def _palette_foreground(opened: ImageFile, path: Path) -> NDArray[np.uint8]:
    """Index 0 is the background, and so is every index whose colour is black."""
    indices = np.asarray(opened.getchannel("P"))
    coloured = np.asarray(opened.convert("RGBA"))[..., :3].any(axis=2)
    if (coloured & (indices == 0)).any():
        raise ShardError(f"{path}: index 0 of the mask's palette is not black: store it as grey, 0 for the background")
    return np.asarray(coloured, dtype=np.uint8)


def _alpha_foreground(opened: ImageFile, path: Path) -> NDArray[np.uint8]:
    """The mask is in the colour, in the alpha, or the same in both."""
    *colours, alpha = (np.asarray(band) for band in opened.split())
    if (alpha == 255).all():
        return np.asarray(_equal(colours, path) != 0, dtype=np.uint8)
    opaque, coloured = alpha != 0, np.any([band != 0 for band in colours], axis=0)
    uniform = all((band == band[0, 0]).all() for band in colours)
    if not uniform and (opaque != coloured).any():
        raise ShardError(f"{path}: colour and alpha of the mask say different things: store it as grey, without alpha")
    return opaque.astype(np.uint8)


def _numbers(opened: ImageFile, path: Path) -> NDArray[np.uint8]:
    """The class numbers of a mask."""
    if is_jpeg(opened):
        raise ShardError(f"{path}: a JPEG does not keep class numbers: store the mask as PNG")
    if opened.mode == "P":
        return np.asarray(opened)
    if opened.mode in ("LA", "RGBA"):
        *colours, alpha = (np.asarray(band) for band in opened.split())
        if (alpha != 255).any():
            raise ShardError(f"{path}: some pixels of the mask are transparent: store it as grey, without alpha")
        return _equal(colours, path)
    grey = _grey(opened, path)
    if grey.max() > 255:
        raise ShardError(f"{path}: mask value {grey.max()} is no class: classes are 0 to 254, and 255 = ignore")
    # Pillow stretches greys of 2 and 4 bits to 0..255.
    stretch = {2: 85, 4: 17}.get(bits(opened, path), 1) if opened.mode == "L" else 1
    return (grey // stretch).astype(np.uint8)


def _grey(opened: ImageFile, path: Path) -> NDArray[Any]:
    """One number a pixel, of a file without palette and alpha."""
    if opened.mode == "RGB":
        return _equal([np.asarray(band) for band in opened.split()], path)
    if opened.mode not in ("1", "L") and not is_sixteen_bit(opened):
        raise ShardError(f"{path}: mask mode {opened.mode} is not read: store it as 8-bit grey")
    return np.asarray(opened).astype(np.uint8 if opened.mode in ("1", "L") else np.uint16)


def _equal(bands: list[NDArray[np.uint8]], path: Path) -> NDArray[np.uint8]:
    """The values of bands that are all the same."""
    if any((band != bands[0]).any() for band in bands[1:]):
        raise ShardError(f"{path}: a mask in colours: store it as grey or with a palette")
    return bands[0]
