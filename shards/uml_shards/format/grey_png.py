"""8-bit grey PNG files as stored in shards: unfiltered rows in a single chunk, decoded in half of Pillow's time.

PNG filters are designed for shades and do not help with class numbers. Without them, decoding is plain inflating.
"""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">II5B")
_GREY = (8, 0, 0, 0, 0)
"""Bit depth 8, colour type grey, the only defined compression and filter methods, not interlaced."""

_FIXED = len(_SIGNATURE) + 25 + 12 + 12
"""Bytes of a file without its compressed rows: signature, IHDR chunk, and the framing of IDAT and IEND."""

_LEVEL = 1
"""zlib level: decodes fastest, and higher levels hardly make class maps smaller."""


def encode_grey_png(values: NDArray[np.uint8]) -> bytes:
    """Encode (H, W) values as a standard PNG."""
    height, width = values.shape
    rows = np.zeros((height, width + 1), np.uint8)
    rows[:, 1:] = values
    header = _chunk(b"IHDR", _HEADER.pack(width, height, *_GREY))
    return _SIGNATURE + header + _chunk(b"IDAT", zlib.compress(rows.tobytes(), _LEVEL)) + _chunk(b"IEND", b"")


def decode_grey_png(data: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """Decode a file written by `encode_grey_png`.

    Args:
        data: bytes of the file.
        max_pixels: largest number of pixels to decode.

    Returns:
        Values (H, W); None for any other file, valid or not.
    """
    compressed = data[41:-16]
    if len(data) < _FIXED or not data.startswith(_SIGNATURE + b"\0\0\0\rIHDR"):
        return None
    width, height, *kind = _HEADER.unpack_from(data, 16)
    if tuple(kind) != _GREY or not 0 < width * height <= max_pixels:
        return None
    if data[8:33] != _chunk(b"IHDR", data[16:29]) or data[33:] != _chunk(b"IDAT", compressed) + _chunk(b"IEND", b""):
        return None
    size = height * (width + 1)
    try:
        inflating = zlib.decompressobj()
        rows = inflating.decompress(compressed, size + 1)
    except zlib.error:
        return None
    if not inflating.eof or inflating.unused_data or len(rows) != size:
        return None
    values = np.frombuffer(rows, np.uint8).reshape(height, width + 1)
    return None if values[:, 0].any() else values[:, 1:].copy()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
