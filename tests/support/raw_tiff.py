"""Build TIFF files of kinds that Pillow can read but not write."""

import struct

import numpy as np

SHORT = 3


def raw_tiff(values: np.ndarray, photometric: int) -> bytes:
    """Build a TIFF with one uncompressed strip of 16 bits.

    Args:
        values: (H, W) or (H, W, channels).
        photometric: 0 = white is zero, 1 = black is zero, 2 = RGB.
    """
    height, width, channels = *values.shape[:2], values.shape[2] if values.ndim == 3 else 1
    data = values.astype("<u2").tobytes()
    entries = 9
    start = 8 + 2 + 12 * entries + 4  # offset of values that do not fit into an entry, followed by the strip
    fields = {
        256: width, 257: height, 258: 16 if channels == 1 else start, 259: 1, 262: photometric,
        273: start + 2 * channels, 277: channels, 278: height, 279: len(data),
    }  # fmt: skip
    body = b"".join(
        struct.pack("<HHII", tag, SHORT, channels if tag == 258 else 1, value) for tag, value in fields.items()
    )
    return struct.pack("<2sHIH", b"II", 42, 8, entries) + body + bytes(4) + struct.pack("<H", 16) * channels + data
