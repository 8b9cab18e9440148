"""The indices of all shards of a split: in memory, or, if they are large, in one file that processes share.

The index of a hundred million samples takes gigabytes, and that of each shard is a file of its own. The first process
of a machine that opens such a split checks all of them and joins them in one file of the cache folder; it and all
others map that file into memory, where it exists once:

    <digest of the manifest>.index   the index files, one after the other; then the offsets of all of them and the
                                     end of the last one, 8 bytes each (<i8)

Each process compares the sha256 of an index with the manifest's before its first use.
"""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from ..address import Address, Location
from ..errors import ShardError, reason_of
from ..format.index import index_dtype, parse_index
from ..format.manifest import Manifest, Shard
from ..storage.storage import Storage

LARGE = 1 << 26
"""Bytes of all indices from which on they are joined in a file."""

FETCHES = 8
"""Number of indices fetched concurrently when a URL is opened."""

RECENT = 256
"""Number of indices of a split that a process keeps ready: mapped, checked and changed."""

Indices = Sequence[NDArray[np.void]]
"""The index of each shard, in manifest order."""


class _Lazy(Sequence[NDArray[np.void]]):
    """Indices of which each is made when it is needed; the most recently made ones are kept."""

    def __init__(self) -> None:
        self._ready = lru_cache(RECENT)(self.make)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._ready = lru_cache(RECENT)(self.make)

    @overload
    def __getitem__(self, shard: int) -> NDArray[np.void]: ...
    @overload
    def __getitem__(self, shard: slice) -> list[NDArray[np.void]]: ...
    def __getitem__(self, shard: int | slice) -> NDArray[np.void] | list[NDArray[np.void]]:
        if isinstance(shard, slice):
            return [self[number] for number in range(*shard.indices(len(self)))]
        if not 0 <= shard < len(self):
            raise IndexError(f"shard {shard} of {len(self)}")
        return self._ready(shard)

    @abstractmethod
    def make(self, shard: int) -> NDArray[np.void]:
        """Return the index of a shard."""


class Changed(_Lazy):
    """Indices as a function changes them.

    Args:
        indices: the indices.
        change: returns a changed copy of an index; can be pickled.
    """

    def __init__(self, indices: Indices, change: Callable[[NDArray[np.void]], NDArray[np.void]]) -> None:
        super().__init__()
        self._indices, self._change = indices, change

    def __len__(self) -> int:
        return len(self._indices)

    def make(self, shard: int) -> NDArray[np.void]:
        """Return the changed index of a shard."""
        return self._change(self._indices[shard])


class Joined(_Lazy):
    """Indices in a file that is mapped into memory.

    Args:
        file: the file.
        where: location of the split, for error messages.
        manifest: manifest of the split.

    Raises:
        OSError, ValueError: the file cannot be mapped, or is not one of such a split.
    """

    def __init__(self, file: Path, where: Location, manifest: Manifest) -> None:
        super().__init__()
        self._file, self._where, self._manifest = file, where, manifest
        self._open()

    def _open(self) -> None:
        self._bytes = np.memmap(self._file, np.uint8, "r")
        count = len(self) + 1
        if len(self._bytes) < 8 * count:
            raise ValueError(f"{self._file} is cut off")
        self._offsets = self._bytes[len(self._bytes) - 8 * count :].view("<i8")
        ends = [self._offsets[0] == 0, self._offsets[-1] == len(self._bytes) - 8 * count]
        if not all(ends) or (np.diff(self._offsets) <= 0).any():
            raise ValueError(f"{self._file} is damaged")

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the file itself; pickled arrays would be copies.
        return {**super().__getstate__(), "_bytes": None, "_offsets": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._open()

    def __len__(self) -> int:
        return len(self._manifest.shards)

    def make(self, shard: int) -> NDArray[np.void]:
        """Return the index of a shard, in the mapped memory.

        Raises:
            ShardError: its bytes are not those that the manifest states.
        """
        start, end = self._offsets[shard : shard + 2].tolist()
        data, stated = self._bytes[start:end].data, self._manifest.shards[shard]
        if hashlib.sha256(data).hexdigest() != stated.index_sha256:
            raise ShardError(f"{self._file} is damaged at {stated.index}: remove it, and it is made again")
        return parse_index(data, stated, self._manifest, self._where / stated.index)


def open_indices(storage: Storage, where: Location, manifest: Manifest, digest: str, cache: Path) -> Indices:
    """Load the indices of a split after cheap checks: existence and size of each tar, digest and rows of its index.

    If the indices are large and were joined before, only their file is mapped; each index is checked at its first use,
    and each tar before its first read.

    Args:
        storage: storage of the split.
        where: location of the split, for error messages.
        manifest: manifest of the split.
        digest: its digest.
        cache: folder for the files of large indices.

    Raises:
        ShardError: a check fails, or the file cannot be written.
    """
    if manifest.samples * index_dtype(len(manifest.components)).itemsize < LARGE:
        return [index for _, index in _load(storage, where, manifest)]
    folder = cache / "indices"
    file = folder / f"{digest}.index"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(folder / f"{digest}.lock"):
            with suppress(OSError, ValueError):
                return Joined(file, where, manifest)
            _join((data for data, _ in _load(storage, where, manifest)), file)
        return Joined(file, where, manifest)
    except (OSError, ValueError) as error:
        raise ShardError(
            f"cache folder {folder} cannot be used for the index of {where}: {reason_of(error)}: free disk space or "
            "choose another folder"
        ) from None


def load_checked_index(storage: Storage, where: Location, shard: Shard, manifest: Manifest) -> NDArray[np.void]:
    """Load the index of a shard after cheap checks: existence and size of the tar, digest and length of the index.

    Args:
        storage: storage of the split.
        where: location of the split, for error messages.
        shard: entry of the manifest.
        manifest: manifest of the split.

    Raises:
        ShardError: a check fails.
    """
    return checked(storage.read_index(shard, len(manifest.components)), where, shard, manifest)


def checked(data: bytes | memoryview, where: Location, shard: Shard, manifest: Manifest) -> NDArray[np.void]:
    """Return the rows of an index file, in its memory, after checking its digest and its length."""
    path = where / shard.index
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        raise ShardError(
            f"{path}: its sha256 differs from the manifest's: the index belongs to other shards or is damaged"
        )
    return parse_index(data, shard, manifest, path)


def _load(storage: Storage, where: Location, manifest: Manifest) -> Iterator[tuple[bytes, NDArray[np.void]]]:
    """Yield the bytes and the rows of each index, checked, in order."""

    def load(shard: Shard) -> tuple[bytes, NDArray[np.void]]:
        data = storage.read_index(shard, len(manifest.components))
        return data, checked(data, where, shard, manifest)

    if not isinstance(where, Address):
        yield from map(load, manifest.shards)
        return
    with ThreadPoolExecutor(FETCHES) as pool:
        yield from pool.map(load, manifest.shards)


def _join(indices: Iterator[bytes], file: Path) -> None:
    """Write a file of joined indices, all of it or nothing; the caller holds its lock."""
    offsets, part = [0], file.with_name(f"{file.name}.part")
    with part.open("wb") as joined:
        for data in indices:
            joined.write(data)
            offsets.append(offsets[-1] + len(data))
        joined.write(np.asarray(offsets, "<i8").tobytes())
        joined.flush()
        os.fsync(joined.fileno())  # no crash may leave a file of this name whose content is not on the disk
    part.replace(file)
