"""Reads a PNG, JPEG, TIFF or BMP file as the importers do."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from uml_shards.errors import ShardError
from uml_shards.format.picture import MAX_PIXELS, decode_image
from uml_shards.importers.fundus import read_photograph
from uml_shards.sources.encode import encode_image, encode_opened
from uml_shards.sources.raw import as_array, is_sixteen_bit, load_plain, open_raw, turn, upright_size
from uml_shards.sources.retina import find_disc, square_around

from .geometry import PictureGeometry
from .trained import Trained

THUMBNAIL = 1024
"""Longest side of the image in an overlay, in pixels."""

Read = tuple[NDArray[Any], PictureGeometry, NDArray[np.uint8] | None]
"""The image (H, W, channels) as shards store it, how it lies in the input, and the input for an overlay."""


def read_picture(path: Path, trained: Trained, longest: int) -> Read:
    """Read and prepare an image file.

    The EXIF orientation is applied, as viewers do, unless the training's importer was told not to (`exif=stored`).

    Args:
        path: the file.
        trained: what the run was trained on.
        longest: longest side of the input for an overlay; 0: there is none.

    Raises:
        ShardError: the file cannot be read, or its channels are not those of the training.
    """
    options = trained.options
    if options.crop == "disc":
        raise ShardError(
            f"{path} cannot be predicted: {trained.words}, cropped to the optic disc of "
            "the mask, which a new image lacks"
        )
    if options.crop in ("retina", "none") and options.margin is None:
        return _read_photograph(path, trained, longest)
    upright = options.exif == "upright"
    opened = open_raw(path)
    _check_channels(opened, path, trained)
    size = options.size
    shown = _shown(path, upright, longest) if longest else None
    if not size and opened.width * opened.height > MAX_PIXELS:  # larger than shards store, but windows predict it
        image = _with_channels(_upright(opened, path, upright), trained.channels)
        return image, PictureGeometry.whole(image.shape), shown
    shape = _shape(opened, path, upright)
    extension, data, _ = encode_opened(opened, path, size, options.lossless, trained.channels, upright=upright)
    return decode_image(data, extension), PictureGeometry.whole(shape), shown


def _check_channels(opened: ImageFile, path: Path, trained: Trained) -> None:
    """Refuse an image of other channels than those of the training, unless its importer would convert it."""
    grey = opened.mode in ("L", "LA", "1") or is_sixteen_bit(opened)
    sixteen = is_sixteen_bit(opened)
    if trained.channels == 3 and grey and (sixteen or trained.options.channels != "rgb"):
        kind = "16-bit grey" if sixteen else "grey"
        raise ShardError(f"{path} has 1 channel ({kind}), but {trained.words}")
    if trained.channels == 1 and not grey:
        image = load_plain(open_raw(path), path)
        if image.mode == "RGB" and not _is_grey(image):
            raise ShardError(f"{path} has 3 channels (colour), but {trained.words}")


def _is_grey(image: Image.Image) -> bool:
    red, green, blue = (band.tobytes() for band in image.split())
    return red == green == blue


def _shape(opened: ImageFile, path: Path, upright: bool) -> tuple[int, int]:
    return upright_size(opened, path) if upright else (opened.height, opened.width)


def _upright(opened: ImageFile, path: Path, upright: bool) -> Image.Image:
    method = turn(opened, path) if upright else None
    image = load_plain(opened, path)
    return image if method is None else image.transpose(method)


def _with_channels(image: Image.Image, channels: int) -> NDArray[Any]:
    """Return the pixels (H, W, channels); the channels have been checked."""
    if channels == 3:
        return np.asarray(image.convert("RGB"))
    return as_array(image.getchannel(0) if image.mode == "RGB" else image)[..., None]


def _shown(path: Path, upright: bool, longest: int) -> NDArray[np.uint8]:
    opened = open_raw(path)
    opened.draft(opened.mode, (2 * longest, 2 * longest))
    image = _upright(opened, path, upright)
    return thumbnail(as_array(image) if image.mode == "RGB" else as_array(image)[..., None], longest)


def _read_photograph(path: Path, trained: Trained, longest: int) -> Read:
    """Read a photograph of the fundus, cropped to the square around the retina as importers of such data do."""
    image = read_photograph(path)
    disc = find_disc(image) if trained.options.crop == "retina" else None
    left, top, right, bottom = square_around(disc or (0, 0, image.width, image.height))
    side = trained.options.size or right - left
    resized = image.crop((left, top, right, bottom)).resize((side, side), Image.Resampling.BICUBIC)
    extension, data = encode_image(np.asarray(resized), trained.options.lossless)
    shown = thumbnail(np.asarray(image), longest) if longest else None
    geometry = PictureGeometry((image.height, image.width), (top, left, bottom, right))
    return decode_image(data, extension), geometry, shown


def thumbnail(image: NDArray[Any], longest: int) -> NDArray[np.uint8]:
    """Return an image (H, W, 1 or 3) as (h, w, 3) uint8, reduced to a longest side; 16 bits are stretched."""
    values = image
    if values.dtype != np.uint8:
        low, high = np.percentile(values, (0.5, 99.5))
        values = (np.clip((values - low) / max(float(high - low), 1.0), 0, 1) * 255).astype(np.uint8)
    shown = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).convert("RGB")
    shown.thumbnail((longest, longest), Image.Resampling.BICUBIC)
    return np.asarray(shown)
