"""Read mask files of any mode as class numbers, and resize masks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from ..errors import ShardError
from .binary import foreground
from .raw import bits, is_jpeg, is_sixteen_bit, is_turned, load, open_raw

MaskValues = Literal["binary", "nonzero", "classes"]
"""binary: two values, 0 and another; nonzero: any value except 0 is foreground; classes: class numbers."""

_HALF = 128
"""A JPEG mask without any value from here on cannot be told from noise."""

LOST = "masks lost a class when resized (mask_cover=0.1, or a larger size, keeps small lesions)"
"""Note about masks in which a class is absent after resizing."""

BLURRED = "binary masks blurred by JPEG or resizing, cut at half of full scale"
"""Note about binary masks of more than two values."""


def read_mask(
    path: Path, values: MaskValues, threshold: float | None = None, note: Callable[[str], None] | None = None
) -> NDArray[np.uint8]:
    """Read the classes of a mask file, (H, W) uint8.

    Args:
        path: PNG, TIFF, BMP or JPEG of any mode with one number per pixel.
        values: "binary": two values, see `uml_shards.sources.binary.foreground`; "nonzero": all values except 0 become
            1; "classes": the numbers in the file, or the indices of a palette, not in a JPEG.
        threshold: for "binary": fraction of full scale from which values become 1.
        note: told in one line if a binary mask was blurred.

    Raises:
        ShardError: the file cannot be read, has an EXIF orientation, or its pixels cannot be interpreted as such
            numbers.
    """
    opened = open_raw(path)
    if is_turned(opened, path):
        raise ShardError(f"{path}: the mask has an EXIF orientation: store its pixels upright, without orientation")
    load(opened, path)
    if values == "classes":
        return _numbers(opened, path)
    drawn = _drawn(opened, path)
    if is_jpeg(opened) and 0 < drawn.max() < _HALF:
        raise ShardError(f"{path}: the JPEG mask has no value above {drawn.max()}: store it as PNG")
    if values == "nonzero":
        return (drawn != 0).astype(np.uint8)
    mask, blurred = foreground(drawn, path, threshold)
    if blurred and note:
        note(BLURRED)
    return mask


def resize_mask(mask: NDArray[np.uint8], size: tuple[int, int], cover: float | None = None) -> NDArray[np.uint8]:
    """Resize a mask to (H, W), without mixing classes.

    Args:
        mask: (H, W) class numbers, 255 = ignore.
        size: new height and width.
        cover: None takes the class at the centre of each new pixel (NEAREST), which may lose small lesions. Otherwise a
            new pixel gets the class, except for background, that covers most of it, if that is at least this fraction.
    """
    if mask.shape == size:
        return mask
    width_and_height = (size[1], size[0])
    if cover is None:
        return np.asarray(Image.fromarray(mask).resize(width_and_height, Image.Resampling.NEAREST))
    made = np.zeros(size, np.uint8)
    most = np.full(size, np.nextafter(np.float32(cover), np.float32(0)))
    for number in np.unique(mask[mask != 0]):
        covered = Image.fromarray((mask == number).astype(np.float32)).resize(width_and_height, Image.Resampling.BOX)
        share = np.asarray(covered)
        made[share > most] = number
        most = np.maximum(most, share)
    return made


def _drawn(opened: ImageFile, path: Path) -> NDArray[Any]:
    """Return one value per pixel of a binary mask, of which 0 is background."""
    if opened.mode in ("P", "PA"):
        return _of_palette(opened, path)
    if opened.mode in ("LA", "RGBA"):
        return _of_alpha(opened, path)
    return _grey(opened, path)


def _of_palette(opened: ImageFile, path: Path) -> NDArray[np.uint8]:
    """Return the grey values of a palette of greys, else a number for each colour. Index 0 must be black."""
    indices = np.asarray(opened.getchannel("P"))
    colours = np.asarray(opened.convert("RGBA"))[..., :3]
    coloured = colours.any(axis=2)
    if (coloured & (indices == 0)).any():
        raise ShardError(
            f"{path}: index 0 of the mask's palette is not black: store the mask as grey, with 0 for the background"
        )
    if (colours == colours[..., :1]).all():
        return colours[..., 0]
    used, numbers = np.unique(np.where(coloured, indices, np.uint8(0)), return_inverse=True)
    return (numbers.reshape(indices.shape) + int(used[0] != 0)).astype(np.uint8)


def _of_alpha(opened: ImageFile, path: Path) -> NDArray[np.uint8]:
    """Return the values of a mask stored in the colour channels, in the alpha channel, or equally in both."""
    *colours, alpha = (np.asarray(band) for band in opened.split())
    if (alpha == 255).all():
        return _equal(colours, path)
    opaque, coloured = alpha != 0, np.any([band != 0 for band in colours], axis=0)
    uniform = all((band == band[0, 0]).all() for band in colours)
    if not uniform and (opaque != coloured).any():
        raise ShardError(f"{path}: colour and alpha of the mask contradict each other: store it as grey, without alpha")
    return alpha


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
