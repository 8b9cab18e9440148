"""Encode raw image files as components of a sample."""

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
"""A JPEG is decoded at the smallest scale that is at least this many times the target size, then resized."""

_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png"}
"""Pillow format -> extension, for files that can be stored unchanged; the file's own extension may be wrong."""


def encode_file(path: Path, size: int, lossless: bool) -> tuple[str, bytes, tuple[int, int]]:
    """Encode an image file as a component, resized to size x size. Its EXIF orientation is not applied.

    See `encode_opened`.
    """
    return encode_opened(open_raw(path), path, size, lossless)


def encode_opened(
    opened: ImageFile, path: Path, size: int, lossless: bool, channels: int | None = None, upright: bool = False
) -> tuple[str, bytes, tuple[int, int]]:
    """Encode an opened image file as a component, resized to size x size without keeping the aspect ratio.

    If no change is needed, the source bytes are kept without metadata, unless their end marker is missing. Otherwise
    the image becomes a JPEG of quality 95 without chroma subsampling. It becomes a PNG if `lossless` is set, if it has
    16 bits, or if a lossless file keeps its size.

    Args:
        opened: image opened by `open_raw`.
        path: path of the file.
        size: height and width to store, in pixels; 0 keeps the image's size.
        lossless: whether to store PNG instead of JPEG.
        channels: 1 or 3: convert the image if this loses nothing; None keeps its channels.
        upright: whether to apply the EXIF orientation. Official masks are often drawn on the unrotated pixels.

    Returns:
        Extension, bytes, (H, W).

    Raises:
        ShardError: the image cannot be decoded, its mode is not supported (see `load_plain`), or its channels cannot be
            converted.
    """
    method = turn(opened, path) if upright else None
    width, height = reversed(opened.size) if turns_sides(method) else opened.size
    target = (size or width, size or height)
    if target[0] * target[1] > MAX_PIXELS:
        raise ShardError(f"{path}: {height}x{width} exceeds the limit of {MAX_PIXELS} pixels: pass a --size")
    same = target == (width, height)
    extension = _EXTENSIONS.get(opened.format or "")
    if extension and same and method is None and _is_plain(opened, channels):
        kept = without_metadata(path.read_bytes(), extension)
        if kept is not None:
            return extension, kept, (height, width)
    wide, high = (int(RESIZE_MARGIN * side) for side in target)
    opened.draft(opened.mode, (high, wide) if turns_sides(method) else (wide, high))
    image = load_plain(opened, path)
    if method is not None:
        image = image.transpose(method)
    image = _with_channels(image if same else _resize(image, target), channels, path)
    extension, data = encode_image(as_array(image), lossless or (same and not is_jpeg(opened)))
    return extension, data, (target[1], target[0])


def _is_plain(opened: ImageFile, channels: int | None) -> bool:
    """Whether the file's mode and channels can be stored unchanged."""
    sixteen = is_sixteen_bit(opened)
    has = 3 if opened.mode == "RGB" else 1
    return (opened.mode in ("L", "RGB") or sixteen) and channels in (None, has)


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize to (W, H). 16-bit grey is resized as float32, which represents every value exactly."""
    if not is_sixteen_bit(image):
        return image.resize(size, Image.Resampling.BICUBIC)
    values = Image.fromarray(as_array(image).astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    return Image.fromarray(np.clip(np.rint(np.asarray(values)), 0, 65535).astype(np.uint16))


def _with_channels(image: Image.Image, channels: int | None, path: Path) -> Image.Image:
    """Convert grey to RGB, or RGB with equal channels to grey."""
    if channels == 3 and image.mode != "RGB":
        if image.mode != "L":
            raise ShardError(
                f"{path}: 16-bit grey cannot be converted to RGB: use channels=grey for all images, or store 8 bits"
            )
        return image.convert("RGB")
    if channels == 1 and image.mode == "RGB":
        red, green, blue = image.split()
        if red.tobytes() != green.tobytes() or red.tobytes() != blue.tobytes():
            raise ShardError(f"{path}: the image is in colour, but channels=grey is set: use channels=rgb")
        return red
    return image


def encode_image(image: NDArray[np.uint8] | NDArray[np.uint16], lossless: bool) -> tuple[str, bytes]:
    """Encode (H, W) or (H, W, 3) as JPEG of quality 95 without chroma subsampling, or as PNG; uint16 always as PNG."""
    buffer = BytesIO()
    if lossless or image.dtype == np.uint16:
        Image.fromarray(image).save(buffer, "PNG", compress_level=1)
        return "png", buffer.getvalue()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return "jpg", buffer.getvalue()


def encode_grey(values: NDArray[np.uint8]) -> bytes:
    """Encode a map (H, W) of class numbers or other 8-bit values as the PNG variant that decodes fastest."""
    return encode_grey_png(values)


def encode_json(label: int | None, meta: Mapping[str, Any] | None = None) -> bytes:
    """Encode the json component."""
    return json.dumps({"label": label, **(meta or {})}).encode()


def read_binary_mask(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read a grey mask file with values 0 and 255 as classes 0 and 1, resized to (H, W) by NEAREST.

    Raises:
        ShardError: the file cannot be read, or has another mode or other values.
    """
    opened = open_raw(path)
    if opened.mode != "L":
        raise ShardError(f"{path}: mask mode {opened.mode} is not 8-bit grey")
    load(opened, path)
    if any(opened.histogram()[1:255]):
        raise ShardError(f"{path}: the mask has values other than 0 and 255")
    return np.asarray(opened.resize((size[1], size[0]), Image.Resampling.NEAREST)) // np.uint8(255)
