"""Build PNG files byte by byte, with bit depths that Pillow does not write, or extreme sizes."""

import struct
import zlib


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """Build a PNG from its header fields and uncompressed rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
