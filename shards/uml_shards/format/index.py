"""The index of a shard: the offsets of each sample and its components in the tar, and the sample's label.

One structured row per sample, 12 + 8 * components bytes:

    base   <u8               offset in the tar of the sample's first header
    label  <i4               class number, -1 = not labelled; needed in advance by plans that sample by class
    start  <u4 [components]  offset of each component's first data byte, relative to base
    size   <u4 [components]  size in bytes; 0 = the sample has no such component

The columns are `manifest.components`, the extensions in alphabetical order. webdataset's TarWriter writes the members
of a sample in the same order.
"""

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ..address import Location
from ..errors import ShardError, reading
from ..files import open_regular
from ..names import check_name
from .decode import find_image
from .manifest import Manifest, Shard
from .npy import parse_npy_header

BLOCK = 512
"""Size of a tar header in bytes, and the multiple that data are padded to."""

NO_LABEL = -1
"""Label of a sample without a label."""

HEADER_BYTES = 8 * BLOCK
"""Upper bound for the header of an index file."""

NAME_BYTES = 100
"""Longest member name that fits a plain tar header."""


@dataclass(frozen=True)
class Entry:
    """A sample found in a tar.

    Attributes:
        key: member name up to the first dot of its last path component.
        base: offset of the sample's first header.
        members: extension -> (offset of the first data byte in the tar, size in bytes).
    """

    key: str
    base: int
    members: dict[str, tuple[int, int]]


def index_dtype(components: int) -> np.dtype:
    """Return the dtype of an index row for a number of components."""
    return np.dtype(
        [("base", "<u8"), ("label", "<i4"), ("start", "<u4", (components,)), ("size", "<u4", (components,))]
    )


def scan_tar(path: str | Path) -> list[Entry]:
    """Find the samples of a finished tar in one pass over its headers.

    Raises:
        ShardError: the tar is truncated or damaged, or contains links, absolute or `..` names, a duplicate key, samples
            whose components are not adjacent, names stored in a PAX header, or a sample without its image.
    """
    path = Path(path)
    entries: list[Entry] = []
    finished: set[str] = set()
    with reading(path), open(open_regular(path), "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        last = -1
        for member in tar:
            if member.offset <= last:  # a negative size, with which tarfile would never come to an end
                raise ShardError(f"{path}: the tar is damaged after {len(entries)} samples: make it again")
            last = member.offset
            _add(entries, finished, member, path)
        # tarfile takes a tar that is cut between two members, or has a damaged header, for complete. Only the end
        # marker shows the damage.
        file.seek(tar.offset)
        if file.read(2 * BLOCK) != bytes(2 * BLOCK):
            raise ShardError(f"{path}: the tar is truncated or damaged after {len(entries)} samples: make it again")
    if not entries:
        raise ShardError(f"{path}: the tar contains no samples")
    for entry in entries:
        _complete(entry, path)
    return entries


def make_index(
    entries: Sequence[Entry], components: Sequence[str], labels: Sequence[int | None], path: str | Path
) -> NDArray[np.void]:
    """Build the index of scanned samples and their labels. Components that are not in the list are omitted.

    Raises:
        ShardError: a sample spans 4 GiB or more.
    """
    index = np.zeros(len(entries), dtype=index_dtype(len(components)))
    for row, entry, label in zip(index, entries, labels, strict=True):
        row["base"] = entry.base
        row["label"] = NO_LABEL if label is None else label
        for column, extension in enumerate(components):
            offset, size = entry.members.get(extension, (entry.base, 0))
            if offset - entry.base + size >= 1 << 32:
                raise ShardError(f"{path}: sample {entry.key} spans 4 GiB or more: split it into smaller samples")
            row["start"][column] = offset - entry.base
            row["size"][column] = size
    return index


def build_index(path: str | Path, components: Sequence[str]) -> NDArray[np.void]:
    """Scan a tar and build its index without labels, which tar headers do not contain.

    Raises:
        ShardError: see `scan_tar`; or the tar contains a component that is not in the list.
    """
    entries = scan_tar(path)
    for entry in entries:
        for extension in entry.members:
            if extension not in components:
                raise ShardError(f"{path}: sample {entry.key} has a component {extension} that is not in the manifest")
    return make_index(entries, components, [None] * len(entries), path)


def save_index(index: NDArray[np.void], path: str | Path) -> None:
    """Write an index as a .npy file."""
    with Path(path).open("wb") as file:
        np.lib.format.write_array(file, index, version=(1, 0), allow_pickle=False)


def index_bytes(samples: int, components: int) -> int:
    """Return the largest size of an index file."""
    return HEADER_BYTES + samples * index_dtype(components).itemsize


def parse_index(data: bytes | memoryview, shard: Shard, manifest: Manifest, path: Location) -> NDArray[np.void]:
    """Parse the bytes of an index file (.npy) and check that its rows fit the shard.

    Args:
        data: bytes of the file; the rows are not copied.
        shard: entry of the manifest.
        manifest: manifest of the split.
        path: path of the index, for error messages.

    Raises:
        ShardError: the data are not an index of the shard's samples and components, or a row points outside of the tar.
    """
    dtype = index_dtype(len(manifest.components))
    try:
        header = parse_npy_header(bytes(data[:HEADER_BYTES]))
    except ValueError as error:
        raise ShardError(f"{path} is not an index file: {error}") from None
    if header.descr != repr(dtype.descr) or header.fortran or len(header.shape) != 1:
        raise ShardError(f"{path} is not an index of {len(manifest.components)} components: make the shards again")
    rows = header.shape[0]
    if rows != shard.samples:
        raise ShardError(f"{path}: indexes {rows} samples, the manifest states {shard.samples}")
    if len(data) != header.start + rows * dtype.itemsize:
        raise ShardError(f"{path}: has {len(data)} bytes, but {rows} rows need {header.start + rows * dtype.itemsize}")
    index = np.frombuffer(data, dtype, offset=header.start)
    _check_rows(index, shard, len(manifest.classes), path)
    return index


def _check_rows(index: NDArray[np.void], shard: Shard, classes: int, path: Location) -> None:
    """Check that the samples of an index follow one another in the tar, and that their labels are class numbers."""
    present = index["size"] > 0
    ends = np.where(present, index["start"].astype(np.uint64) + index["size"], 0).max(axis=1)
    empty = ~present.any(axis=1)
    early = (present & (index["start"] < BLOCK)).any(axis=1)
    # A base near 2^64 would wrap around when the sample's length is added.
    limits = np.append(index["base"][1:], np.uint64(shard.bytes))
    late = (ends > limits) | (index["base"] > limits - np.minimum(ends, limits))
    wrong = empty | early | late | (index["label"] < NO_LABEL) | (index["label"] >= classes)
    if wrong.any():
        row = int(wrong.argmax())
        label = int(index["label"][row])
        problem = "points outside of the tar or into another sample"
        if not NO_LABEL <= label < classes:
            problem = f"has label {label}, which is out of range: {classes} classes"
        raise ShardError(f"{path}: the row of sample {row} {problem}: make the shards again")


def _add(entries: list[Entry], finished: set[str], member: tarfile.TarInfo, path: Path) -> None:
    """Add a tar member to its sample."""
    name = member.name
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts:
        raise ShardError(f"{path}: member name {name!r} is absolute or leaves the folder, which is not allowed")
    if member.isdir():
        return
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        raise ShardError(f"{path}: member {name!r} is a link or a special file, which is not allowed")
    folder, separator, last = name.rpartition("/")
    stem, dot, extension = last.partition(".")
    if not stem or not dot or not extension or len(name.encode("utf-8", "surrogateescape")) > NAME_BYTES:
        raise ShardError(f"{path}: member name {name!r} is not <key>.<extension> of at most {NAME_BYTES} bytes")
    if member.size == 0:
        raise ShardError(f"{path}: member {name!r} is empty")
    key = folder + separator + stem
    check_name(key, f"{path}: key of a sample")
    check_name(extension, f"{path}: component of sample {key}")
    if "path" in member.pax_headers:
        raise ShardError(f"{path}: member name {name!r} is not plain ASCII and is stored in a PAX header: rename it")
    if not entries or entries[-1].key != key:
        if key in finished:
            raise ShardError(
                f"{path}: key {key} occurs again after other samples: it is a duplicate, or its components are not "
                "adjacent"
            )
        finished.add(key)
        entries.append(Entry(key, member.offset, {}))
    elif extension in entries[-1].members:
        raise ShardError(f"{path}: duplicate key {key}: component {extension} occurs twice")
    entries[-1].members[extension] = (member.offset_data, member.size)


def _complete(entry: Entry, path: Path) -> None:
    try:
        find_image(entry.members)
    except ShardError as error:
        raise ShardError(f"{path}: sample {entry.key} {error}") from None
