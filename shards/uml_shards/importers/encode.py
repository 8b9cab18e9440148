"""From the files of a raw data set to the bytes of components."""

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..decode import IMAGE_EXTENSIONS
from ..errors import ShardError

MAX_SOURCE_PIXELS = 1 << 28
"""Largest raw image or mask that is opened; dermoscopy masks of 30 million pixels are real."""

RESIZE_MARGIN = 2.0
"""A JPEG is decoded at the smallest scale that is still this many times the target, then resized."""


def open_raw(path: Path) -> Image.Image:
    """Open a raw image file; pixels are not decoded yet.

    Raises:
        ShardError: it is missing, no image, or too large.
    """
    try:
        data = path.read_bytes()
        # Raw masks pass Pillow's limit, which warns on stderr; ours is checked below, before anything is decoded.
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            opened = Image.open(BytesIO(data))
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    except OSError as error:
        reason = error.strerror or "it is not an image"
        raise ShardError(f"{path} cannot be opened: {reason}") from None
    if opened.width * opened.height > MAX_SOURCE_PIXELS:
        raise ShardError(f"{path}: {opened.height}x{opened.width} is more than {MAX_SOURCE_PIXELS} pixels")
    return opened


def encode_file(path: Path, size: int, lossless: bool) -> tuple[str, bytes, tuple[int, int]]:
    """An image file as a component, squashed to size x size.

    The source bytes are kept when the image already has that size (or size is 0); else it becomes a JPEG of quality 95
    without chroma subsampling, or a PNG.

    Returns:
        Extension, bytes, (H, W).

    Raises:
        ShardError: it cannot be read, or must be resized and is not 8-bit grey or RGB.
    """
    opened = open_raw(path)
    width, height = opened.size
    extension = path.suffix[1:].lower()
    if size in (0, width) and size in (0, height) and extension in IMAGE_EXTENSIONS:
        return extension, path.read_bytes(), (height, width)
    if opened.mode not in ("L", "RGB"):
        raise ShardError(f"{path}: image mode {opened.mode} cannot be resized: use 8-bit grey or RGB")
    target = (size or width, size or height)
    mode = opened.mode
    opened.draft(mode, (int(RESIZE_MARGIN * target[0]), int(RESIZE_MARGIN * target[1])))
    try:
        resized = opened.resize(target, Image.Resampling.BICUBIC)
    except (OSError, SyntaxError, ValueError) as error:
        raise ShardError(f"{path} cannot be decoded: {' '.join(str(error).split())}") from None
    extension, data = encode_image(np.asarray(resized), lossless)
    return extension, data, (target[1], target[0])


def encode_image(image: NDArray[np.uint8], lossless: bool) -> tuple[str, bytes]:
    """An image (H, W) or (H, W, 3) as a JPEG of quality 95 without chroma subsampling, or as a PNG."""
    buffer = BytesIO()
    if lossless:
        Image.fromarray(image).save(buffer, "PNG", compress_level=1)
        return "png", buffer.getvalue()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return "jpg", buffer.getvalue()


def encode_grey(values: NDArray[np.uint8]) -> bytes:
    """A map (H, W) of class numbers, or of anything in 8 bits, as a PNG of level 1: decodes fastest, loses nothing."""
    buffer = BytesIO()
    Image.fromarray(values).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


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
    try:
        opened.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise ShardError(f"{path} cannot be decoded: {' '.join(str(error).split())}") from None
    if any(opened.histogram()[1:255]):
        raise ShardError(f"{path}: mask values other than 0 and 255")
    return np.asarray(opened.resize((size[1], size[0]), Image.Resampling.NEAREST)) // np.uint8(255)
