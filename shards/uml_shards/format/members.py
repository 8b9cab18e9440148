"""Read the components of a sample from an open tar by the sample's index row.

The tar headers in between are checked, so a tar that does not match its index is detected at the first read.
"""

from collections.abc import Sequence
from functools import cache
from struct import Struct
from typing import NoReturn

import numpy as np

from ..address import Location
from ..errors import ShardError
from ..files import read_range
from ..names import check_name
from .index import BLOCK
from .patch import Part
from .volume import HEADER_BYTES, IMAGE, MASK, TRUTH


def read_components(
    descriptor: int, record: np.void, names: Sequence[str], path: Location
) -> tuple[str, dict[str, bytes]]:
    """Read the key of a sample and the bytes of its components, by extension, with one `pread`.

    Args:
        descriptor: file descriptor of the tar.
        record: the sample's index row.
        names: extensions of all components, the columns of the index.
        path: path of the tar, for error messages.

    Raises:
        ShardError: the tar does not contain the sample at this offset.
    """
    base, present = _unpack(record, names, path)
    data = read_range(descriptor, max([start + size for _, start, size in present]), base)
    stem, found = b"", {}
    for extension, start, size in present:
        name, stated = _header(data, start - BLOCK)
        stem = stem or _stem(name, extension, path)
        component = data[start : start + size]
        if name != stem + b"." + extension.encode() or stated != size or len(component) != size:
            _refuse(stem, extension, path)
        found[extension] = component
    return _key(stem, path), found


def read_parts(descriptor: int, record: np.void, names: Sequence[str], path: Location) -> tuple[str, dict[str, Part]]:
    """Locate the components of a sample in a tar, and read the header of arrays and all bytes of other components.

    Raises:
        ShardError: the tar does not contain the sample at this offset.
    """
    base, present = _unpack(record, names, path)
    stem, found = b"", {}
    for extension, start, size in present:
        wanted = min(size, HEADER_BYTES) if extension in (IMAGE, MASK, TRUTH) else size
        data = read_range(descriptor, BLOCK + wanted, max(base + start - BLOCK, 0))
        name, stated = _header(data, 0)
        stem = stem or _stem(name, extension, path)
        if name != stem + b"." + extension.encode() or stated != size or len(data) != BLOCK + wanted:
            _refuse(stem, extension, path)
        found[extension] = Part(base + start, size, data[BLOCK:])
    return _key(stem, path), found


def read_key(descriptor: int, record: np.void, names: Sequence[str], path: Location) -> str:
    """Read the key of a sample from its first tar header.

    Raises:
        ShardError: the tar does not contain the sample at this offset.
    """
    base, present = _unpack(record, names, path)
    start, extension = min((start, extension) for extension, start, _ in present)
    name, _ = _header(read_range(descriptor, BLOCK, max(base + start - BLOCK, 0)), 0)
    return _key(_stem(name, extension, path), path)


_HEADER = Struct("100s24x12s121x5s")
"""Name, size and magic in a tar header."""


@cache
def _row(components: int) -> Struct:
    """Return the format of a row of `index.index_dtype`. numpy takes ten times as long to unpack one."""
    return Struct(f"<Qi{2 * components}I")


def _unpack(record: np.void, names: Sequence[str], path: Location) -> tuple[int, list[tuple[str, int, int]]]:
    """Return a sample's offset, and (extension, start, size) of its components."""
    base, _, *places = _row(len(names)).unpack(record)  # pyright: ignore[reportArgumentType]
    columns = zip(names, places, places[len(names) :], strict=False)
    present = [(extension, start, size) for extension, start, size in columns if size]
    if not present:
        raise ShardError(f"{path}: the index row for byte {base} has no components: make the shards again", "tar")
    return base, present


def _header(data: bytes, at: int) -> tuple[bytes, int]:
    """Return name and size from a tar header; (b"", -1) if the data are not a header."""
    if not 0 <= at <= len(data) - BLOCK:
        return b"", -1
    name, size, magic = _HEADER.unpack_from(data, at)
    if magic != b"ustar":
        return b"", -1
    try:
        return name.split(b"\0", 1)[0], int(size.strip(b"\0 "), 8)
    except ValueError:
        return name, -1


def _stem(name: bytes, extension: str, path: Location) -> bytes:
    """Return the key in a member name, which must end with the extension."""
    stem = name.removesuffix(b"." + extension.encode())
    if stem == name or not stem:
        problem = f"{path}: found {_text(name)[:40]!r} where the index states a component {extension}: verify the shard"
        raise ShardError(problem, "tar")
    return stem


def _key(stem: bytes, path: Location) -> str:
    try:
        return check_name(_text(stem), f"{path}: key of a sample")
    except ShardError as error:
        raise ShardError(str(error), "tar") from None


def _refuse(stem: bytes, extension: str, path: Location) -> NoReturn:
    problem = f"{path}: component {extension} of sample {_text(stem)} is not where the index states: verify the shard"
    raise ShardError(problem, "tar")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
