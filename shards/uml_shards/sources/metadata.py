"""Remove metadata that may identify people from image files: EXIF, XMP, IPTC, comments, text, previews.

The pixels stay bit-identical: only segments and chunks that our decoders do not use are removed.
"""

from ..errors import ShardError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
"""PNG chunks that are kept: those required to decode the pixels."""

_END, _SCAN, _COMMENT = 0xD9, 0xDA, 0xFE
_APPLICATION = range(0xE0, 0xF0)
_KEPT_APPLICATION = (0xE0, 0xEE)
"""JFIF, and Adobe's marker, which states the colour space."""

_WITHOUT_LENGTH = (0x00, 0x01, *range(0xD0, 0xD8))
"""Codes after 0xFF inside a scan: stuffed bytes and restart markers."""


def without_metadata(data: bytes, extension: str) -> bytes:
    """Return the bytes of a JPEG or PNG file without its metadata.

    Raises:
        ShardError: the file is damaged.
    """
    try:
        return _png(data) if extension == "png" else _jpeg(data)
    except IndexError:
        raise ShardError("cannot be decoded: the file ends too early") from None


def _png(data: bytes) -> bytes:
    kept, place = [_SIGNATURE], len(_SIGNATURE)
    while kept[-1][4:8] != b"IEND":
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if end > len(data):
            raise IndexError
        if data[place + 4 : place + 8] in _CHUNKS:
            kept.append(data[place:end])
        place = end
    return b"".join(kept)


def _jpeg(data: bytes) -> bytes:
    """Keep segments up to the first end marker; cameras append further images after it."""
    kept, place = [data[:2]], 2
    while True:
        while data[place + 1] == 0xFF:  # padding
            place += 1
        if data[place] != 0xFF:
            raise ShardError("cannot be decoded: a JPEG marker is missing")
        marker = data[place + 1]
        if marker == _END:
            return b"".join([*kept, b"\xff\xd9"])
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == _SCAN:
            end = _end_of_scan(data, end)
        if marker != _COMMENT and (marker not in _APPLICATION or marker in _KEPT_APPLICATION):
            kept.append(data[place:end])
        place = end


def _end_of_scan(data: bytes, place: int) -> int:
    while (place := data.find(b"\xff", place)) >= 0:
        if data[place + 1] not in (*_WITHOUT_LENGTH, 0xFF):
            return place
        place += 1 if data[place + 1] == 0xFF else 2
    raise IndexError
