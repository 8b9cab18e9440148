"""Remove metadata that may identify people from image files: EXIF, XMP, IPTC, comments, text, previews.

The pixels stay bit-identical: only segments and chunks that our decoders do not use are removed.
"""

from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
"""PNG chunks that are kept: those required to decode the pixels."""

_END, _SCAN, _COMMENT = 0xD9, 0xDA, 0xFE
_APPLICATION = range(0xE0, 0xF0)
_KEPT_APPLICATION = (0xE0, 0xEE)
"""JFIF, and Adobe's marker, which states the colour space."""

_STUFFED = (0x00, 0xFF)
"""Codes after 0xFF that make no marker: a stuffed byte, and padding."""

_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD8))
"""Markers without a length: those of restarts are inside a scan."""


def without_metadata(data: bytes, extension: str) -> bytes | None:
    """Return the bytes of a JPEG or PNG file without its metadata.

    Returns:
        The bytes; None if segments cannot be told apart or the end marker is missing. Decoders tolerate this in some
        cases, so the file must be encoded again.
    """
    try:
        return _png(data) if extension == "png" else _jpeg(data)
    except (IndexError, ValueError):
        return None


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and bytes of each chunk of a PNG file, up to its end marker.

    Raises:
        ValueError: the file ends before its end marker.
    """
    place, name = len(_SIGNATURE), b""
    while name != b"IEND":
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if end > len(data):
            raise ValueError("it ends before its end marker")
        name = data[place + 4 : place + 8]
        yield name, data[place:end]
        place = end


def _png(data: bytes) -> bytes:
    return b"".join([_SIGNATURE, *(chunk for name, chunk in png_chunks(data) if name in _CHUNKS)])


def _jpeg(data: bytes) -> bytes:
    """Keep segments up to the first end marker; cameras append further images after it."""
    kept, place = [data[:2]], 2
    while data[place := _next_marker(data, place)] != _END:
        marker, start = data[place], place - 1
        place += 1
        if marker in _WITHOUT_LENGTH:
            continue
        length = int.from_bytes(data[place : place + 2], "big")
        if length < 2:
            raise ValueError("a segment is shorter than its own length")
        place += length
        if marker == _SCAN:
            place = _end_of_scan(data, place)
        if marker != _COMMENT and (marker not in _APPLICATION or marker in _KEPT_APPLICATION):
            kept.append(data[start:place])
    return b"".join([*kept, b"\xff\xd9"])


def _next_marker(data: bytes, place: int) -> int:
    """Return the place of the code of the next marker. Like libjpeg, skip bytes that some cameras leave before it."""
    while True:
        place = data.index(b"\xff", place) + 1
        if data[place] not in _STUFFED:
            return place


def _end_of_scan(data: bytes, place: int) -> int:
    place = _next_marker(data, place)
    while data[place] in _WITHOUT_LENGTH:
        place = _next_marker(data, place)
    return place - 1
