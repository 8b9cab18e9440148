"""From the files of a raw data set to the bytes of components."""

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from ..errors import ShardError
from ..format.grey_png import encode_grey_png
from ..format.picture import MAX_PIXELS
from .metadata import without_metadata
from .raw import as_array, is_jpeg, is_sixteen_bit, load, load_plain, open_raw, turn, turns_sides

RESIZE_MARGIN = 2.0
"""A JPEG is decoded at the smallest scale that is still this many times the target, then resized."""

_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png"}
"""Of files that can be stored as they are: what the bytes are, which may differ from what the name says."""


def encode_file(path: Path, size: int, lossless: bool) -> tuple[str, bytes, tuple[int, int]]:
    """An image file as a component, squashed to size x size; its pixels as they lie, whatever its EXIF says.

    See `encode_opened`.
    """
    return encode_opened(open_raw(path), path, size, lossless)


def encode_opened(
    opened: ImageFile, path: Path, size: int, lossless: bool, channels: int | None = None, upright: bool = False
) -> tuple[str, bytes, tuple[int, int]]:
    """An opened image file as a component, squashed to size x size.

    The source bytes are kept, without metadata, when the image already is as it must be. Else it becomes a JPEG of
    quality 95 without
    chroma subsampling; or a PNG: where that is asked for, of 16 bits, and where a lossless file keeps its size.

    Args:
        opened: by `open_raw`.
        path: of the file.
        size: height and width stored, in pixels; 0 keeps the image's own.
        lossless: PNG instead of JPEG.
        channels: 1 or 3, and the image is converted where that loses nothing; None leaves them.
        upright: turn the image as its EXIF says. Official masks are often drawn on the pixels as they lie.

    Returns:
        Extension, bytes, (H, W).

    Raises:
        ShardError: it cannot be decoded, its mode is refused (see `load_plain`), or the channels do not fit.
    """
    method = turn(opened, path) if upright else None
    width, height = reversed(opened.size) if turns_sides(method) else opened.size
    target = (size or width, size or height)
    if target[0] * target[1] > MAX_PIXELS:
        raise ShardError(f"{path}: {height}x{width} is more than {MAX_PIXELS} pixels: give a --size")
    same = target == (width, height)
    extension = _EXTENSIONS.get(opened.format or "")
    if extension and same and method is None and _is_plain(opened, channels):
        return extension, _without_metadata(path, extension), (height, width)
    wide, high = (int(RESIZE_MARGIN * side) for side in target)
    opened.draft(opened.mode, (high, wide) if turns_sides(method) else (wide, high))
    image = load_plain(opened, path)
    if method is not None:
        image = image.transpose(method)
    image = _with_channels(image if same else _resize(image, target), channels, path)
    extension, data = encode_image(as_array(image), lossless or (same and not is_jpeg(opened)))
    return extension, data, (target[1], target[0])


def _is_plain(opened: ImageFile, channels: int | None) -> bool:
    """Whether the file can be stored as it is."""
    sixteen = is_sixteen_bit(opened)
    has = 3 if opened.mode == "RGB" else 1
    return (opened.mode in ("L", "RGB") or sixteen) and channels in (None, has)


def _without_metadata(path: Path, extension: str) -> bytes:
    try:
        return without_metadata(path.read_bytes(), extension)
    except ShardError as error:
        raise ShardError(f"{path} {error}") from None


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Squash to (W, H); 16-bit grey by way of floats, which hold every value of it."""
    if not is_sixteen_bit(image):
        return image.resize(size, Image.Resampling.BICUBIC)
    values = Image.fromarray(as_array(image).astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    return Image.fromarray(np.clip(np.rint(np.asarray(values)), 0, 65535).astype(np.uint16))


def _with_channels(image: Image.Image, channels: int | None, path: Path) -> Image.Image:
    """Grey as RGB; RGB as grey where its channels are equal."""
    if channels == 3 and image.mode != "RGB":
        if image.mode != "L":
            raise ShardError(f"{path}: 16-bit grey has no RGB form: use channels=grey for all images, or store 8 bits")
        return image.convert("RGB")
    if channels == 1 and image.mode == "RGB":
        red, green, blue = image.split()
        if red.tobytes() != green.tobytes() or red.tobytes() != blue.tobytes():
            raise ShardError(f"{path}: an image in colour, where all must be grey: use channels=rgb")
        return red
    return image


def encode_image(image: NDArray[np.uint8] | NDArray[np.uint16], lossless: bool) -> tuple[str, bytes]:
    """(H, W) or (H, W, 3) as a JPEG of quality 95 without chroma subsampling, or as a PNG; uint16 always as PNG."""
    buffer = BytesIO()
    if lossless or image.dtype == np.uint16:
        Image.fromarray(image).save(buffer, "PNG", compress_level=1)
        return "png", buffer.getvalue()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return "jpg", buffer.getvalue()


def encode_grey(values: NDArray[np.uint8]) -> bytes:
    """A map (H, W) of class numbers, or of anything in 8 bits, as the PNG that decodes fastest and loses nothing."""
    return encode_grey_png(values)


def encode_json(label: int | None, meta: Mapping[str, Any] | None = None) -> bytes:
    """The json component."""
    return json.dumps({"label": label, **(meta or {})}).encode()


def read_binary_mask(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A grey mask file of 0 and 255, as classes 0 and 1, by NEAREST at (H, W).

    Raises:
        ShardError: it cannot be read, or has another mode or other values.
    """
    opened = open_raw(path)
    if opened.mode != "L":
        raise ShardError(f"{path}: mask mode {opened.mode} is not 8-bit grey")
    load(opened, path)
    if any(opened.histogram()[1:255]):
        raise ShardError(f"{path}: mask values other than 0 and 255")
    return np.asarray(opened.resize((size[1], size[0]), Image.Resampling.NEAREST)) // np.uint8(255)
