"""A split opened for reading: sample i of the shards laid end to end, one `pread` each."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .address import Address, Location, parse_location
from .cache import Cache
from .decode import Layout, decode_sample
from .errors import ShardError
from .index import BLOCK, parse_index
from .manifest import FILE_NAME, Manifest, Shard
from .sample import Sample
from .storage import Storage, check_size, open_storage

OPEN_FILES = 128
"""Tars kept open at once by one process; most systems allow 1024 files."""

FETCHES = 8
"""Indices fetched at once on opening a URL: each of them waits for its answer."""


class Split:
    """The samples of one split, by number.

    Numbers run over the shards in manifest order. May be pickled, and used in forked or spawned workers: a tar is
    opened where it is first read, and `pread` shares no file position.

    Args:
        path: the split's folder, or its URL.
        cache: for the files behind a URL; the default one if none is given.

    Attributes:
        path: a Path, or an `Address`, which prints without password.

    Raises:
        ShardError: manifest, tar and index disagree in what can be told without reading the tars.
    """

    def __init__(self, path: str | Location, cache: Cache | None = None) -> None:
        self.path = parse_location(path)
        self._storage = open_storage(self.path, cache)
        self.manifest = self._storage.load_manifest()
        self.layout = Layout.of(self.manifest)
        self._indices = self._load_indices()
        self._ends = np.cumsum([shard.samples for shard in self.manifest.shards])
        self._files: dict[int, _File] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

    def locate(self, number: int) -> tuple[int, int]:
        """The shard that holds a sample, and its row there.

        Raises:
            IndexError: there is no such sample.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)} in {self.path}")
        shard = int(np.searchsorted(self._ends, number, side="right"))
        return shard, number - (int(self._ends[shard]) - self.manifest.shards[shard].samples)

    def components(self, number: int) -> tuple[str, dict[str, bytes]]:
        """The key of a sample and the bytes of each component it has, by extension.

        Raises:
            ShardError: the tar is missing or disagrees with manifest or index.
        """
        shard, row = self.locate(number)
        file = self._file(shard)
        return read_components(file.descriptor, self._indices[shard][row], self.manifest.components, file.path)

    def read(self, number: int) -> Sample:
        """A sample, decoded and checked.

        Raises:
            ShardError: it cannot be read; the message names shard, key and reason.
        """
        key, components = self.components(number)
        try:
            return decode_sample(key, components, self.layout)
        except ShardError as error:
            shard, _ = self.locate(number)
            raise ShardError(f"{self.path / self.manifest.shards[shard].name}: sample {key}: {error}") from None

    def labels(self) -> NDArray[np.int32]:
        """The labels (N,) of all samples, in order; -1 = not labelled. No tar is read."""
        return np.concatenate([index["label"] for index in self._indices])

    def keys(self) -> tuple[str, ...]:
        """The keys of all samples, in order: one short read each.

        Raises:
            ShardError: see `components`.
        """
        keys = []
        for shard, index in enumerate(self._indices):
            file = self._file(shard)
            for record in index:
                first, extension = min((start, name) for name, start, _ in _present(record, self.manifest.components))
                header = os.pread(file.descriptor, BLOCK, int(record["base"]) + first - BLOCK)
                keys.append(_key(header, extension, file.path))
        return tuple(keys)

    def _load_indices(self) -> list[NDArray[np.void]]:
        shards, components = self.manifest.shards, len(self.manifest.components)
        # Checked one after another: numpy reads their headers through `ast`, which fails now and then when several
        # threads of Python 3.11 use it.
        if not isinstance(self.path, Address):
            return [load_checked_index(self._storage, self.path, shard, self.manifest) for shard in shards]
        with ThreadPoolExecutor(FETCHES) as pool:
            fetched = list(pool.map(lambda shard: self._storage.read_index(shard, components), shards))
        return [
            _check_index(data, self.path, shard, self.manifest) for data, shard in zip(fetched, shards, strict=True)
        ]

    def _file(self, shard: int) -> "_File":
        file = self._files.get(shard)
        if file is None:
            stated = self.manifest.shards[shard]
            with self._storage.tar(stated) as path:
                file = _File(path, stated.bytes, self.path / stated.name)
            if len(self._files) >= OPEN_FILES:
                self._files.pop(next(iter(self._files)))
            self._files[shard] = file
        return file


def open_split(path: str | Location, cache: Cache | None = None) -> Split:
    """Open a split folder, such as data/shards/phantom/train, or the URL of one.

    Args:
        path: of the folder, or a URL: http and https, or any scheme that fsspec knows.
        cache: for the files behind a URL; the default one if none is given.

    Raises:
        ShardError: it is missing, it is a data set and not one of its splits, its files disagree or cannot be fetched.
    """
    path = parse_location(path)
    if isinstance(path, Path) and not (path / FILE_NAME).exists():
        names = ", ".join(split.name for split in find_splits(path))
        if names:
            raise ShardError(f"shard folder {path} is a data set: name one of its splits: {names}")
    return Split(path, cache)


def find_splits(path: str | Location) -> Sequence[Location]:
    """The splits at a path: itself, or those inside it, by name; empty when there is none.

    A URL is taken for that of a split: what lies in a folder behind one is not known.
    """
    path = parse_location(path)
    if isinstance(path, Address) or (path / FILE_NAME).exists():
        return [path]
    return sorted(manifest.parent for manifest in path.glob(f"*/{FILE_NAME}"))


def load_checked_index(storage: Storage, where: Location, shard: Shard, manifest: Manifest) -> NDArray[np.void]:
    """The index of a shard, after the cheap checks: tar present, sizes, digest and number of samples as stated.

    Args:
        storage: has the files.
        where: the split is, for errors.
        shard: of the manifest.
        manifest: of the split.

    Raises:
        ShardError: something is not as the manifest says.
    """
    return _check_index(storage.read_index(shard, len(manifest.components)), where, shard, manifest)


def _check_index(data: bytes, where: Location, shard: Shard, manifest: Manifest) -> NDArray[np.void]:
    path = where / shard.index
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        raise ShardError(f"{path}: its sha256 is not the manifest's: the index belongs to other shards, or is damaged")
    index = parse_index(data, len(manifest.components), str(path))
    if len(index) != shard.samples:
        raise ShardError(f"{path}: indexes {len(index)} samples, the manifest says {shard.samples}")
    return index


def read_components(
    descriptor: int, record: np.void, names: Sequence[str], path: Location
) -> tuple[str, dict[str, bytes]]:
    """Read one sample of an open tar by its index row, with one `pread`, and check the tar headers inside.

    Raises:
        ShardError: the tar holds something else at that place.
    """
    base = int(record["base"])
    present = _present(record, names)
    data = os.pread(descriptor, max((start + size for _, start, size in present), default=0), base)
    key = None
    found = {}
    for extension, start, size in sorted(present, key=lambda part: part[1]):
        header = data[max(start - BLOCK, 0) : start]
        key = key or _key(header, extension, path)
        if _name(header) != f"{key}.{extension}" or _size(header) != size or len(data) < start + size:
            raise ShardError(f"{path}: component {extension} of sample {key} is not where its index says: verify it")
        found[extension] = data[start : start + size]
    if key is None:
        raise ShardError(f"{path}: the index row for byte {base} has no component: make the shards again")
    return key, found


def _present(record: np.void, names: Sequence[str]) -> list[tuple[str, int, int]]:
    """(extension, start, size) of the components that a sample has."""
    starts, sizes = record["start"].tolist(), record["size"].tolist()
    return [(name, start, size) for name, start, size in zip(names, starts, sizes, strict=True) if size]


def _key(header: bytes, extension: str, path: Location) -> str:
    name = _name(header)
    key = name.removesuffix(f".{extension}")
    if key == name or not key:
        raise ShardError(f"{path}: found {name[:40]!r} where its index says a component {extension}: verify it")
    return key


def _name(header: bytes) -> str:
    """The member name in a tar header; what has not the mark of a header has none."""
    if len(header) != BLOCK or header[257:262] != b"ustar":
        return ""
    return header[:100].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _size(header: bytes) -> int:
    try:
        return int(header[124:136].strip(b"\0 "), 8)
    except ValueError:
        return -1


class _File:
    """An open tar, closed when the last user lets go of it; `path` is where it comes from, for errors."""

    def __init__(self, file: Path, size: int, path: Location) -> None:
        self.path = path
        self.descriptor = -1
        try:
            self.descriptor = os.open(file, os.O_RDONLY)
        except OSError as error:
            raise ShardError(f"{path} cannot be read: {error.strerror}") from None
        check_size(path, os.fstat(self.descriptor).st_size, size)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
