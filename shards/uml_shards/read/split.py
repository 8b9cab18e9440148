"""A split opened for reading: sample i of the shards laid end to end, one `pread` each."""

import copy
import hashlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..address import Address, Location, parse_location
from ..errors import ShardError
from ..format.decode import Layout, decode_sample
from ..format.index import NO_LABEL, parse_index
from ..format.manifest import FILE_NAME, Manifest, Shard
from ..format.members import read_components, read_key, read_parts
from ..format.patch import read_patch_sample
from ..format.volume import IMAGE, MASK
from ..sample import PICTURES, Sample
from ..storage.cache import Cache
from ..storage.prefetch import Prefetch
from ..storage.storage import Storage, check_size, open_storage

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
        self._bounds = [0, *accumulate(shard.samples for shard in self.manifest.shards)]
        self._files: dict[int, _File] = {}
        self._prefetch: Prefetch | None = None

    def __len__(self) -> int:
        return self._bounds[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}, "_prefetch": None}

    def locate(self, number: int) -> tuple[int, int]:
        """The shard that holds a sample, and its row there.

        Raises:
            IndexError: there is no such sample.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)} in {self.path}")
        shard = bisect_right(self._bounds, number) - 1
        return shard, number - self._bounds[shard]

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
            raise self._named(error, number, key) from None

    def read_patch(self, number: int, size: Sequence[int], place: Sequence[float]) -> Sample:
        """A sample of which image and mask are a patch of the volume; no more than that is read.

        Args:
            number: of the sample.
            size: (3,) voxels of the patch; what a smaller volume leaves free repeats its edge, masked as ignored.
            place: (3,) in [0, 1): of the patch's corner among all that are possible, along each axis.

        Raises:
            ShardError: it cannot be read; the message names shard, key and reason.
        """
        shard, row = self.locate(number)
        file = self._file(shard)
        key, parts = read_parts(file.descriptor, self._indices[shard][row], self.manifest.components, file.path)
        try:
            return read_patch_sample(file.descriptor, key, parts, self.layout, size, place)
        except ShardError as error:
            raise self._named(error, number, key) from None

    def prefetch(self, number: int) -> None:
        """Begin to fetch the shard of a sample that will be read soon, if it lies behind a URL; never waits."""
        if not isinstance(self.path, Address):
            return
        shard, _ = self.locate(number)
        if shard not in self._files:
            self._prefetch = self._prefetch or Prefetch(self._storage)
            self._prefetch.want(self.manifest.shards[shard])

    def labels(self) -> NDArray[np.int32]:
        """The labels (N,) of all samples, in order; -1 = not labelled. No tar is read."""
        return np.concatenate([index["label"] for index in self._indices])

    def masked(self) -> NDArray[np.bool_]:
        """Which of all samples (N,) have a mask. No tar is read."""
        names = [f"mask.{name}.png" for name in self.manifest.mask_names] or ["mask.png", "seg.png", MASK]
        columns = np.isin(self.manifest.components, names)
        return np.concatenate([(index["size"][:, columns] > 0).any(axis=1) for index in self._indices])

    def sizes(self) -> tuple[int, ...]:
        """Samples in each shard."""
        return tuple(shard.samples for shard in self.manifest.shards)

    def sets(self) -> tuple[tuple[int, ...], ...]:
        """The same, for each data set: there is one."""
        return (self.sizes(),)

    def without_truth(self) -> "Split":
        """The same samples as bare images: at labels, masks and whatever else is known of them nobody looks."""
        bare = copy.copy(self)
        bare.layout = replace(self.layout, labelled=False, masked=False)
        bare._indices = [_images_only(index, self.manifest.components) for index in self._indices]
        bare._files, bare._prefetch = {}, None
        return bare

    def keys(self) -> tuple[str, ...]:
        """The keys of all samples, in order: one short read each.

        Raises:
            ShardError: see `components`.
        """
        keys = []
        for shard, index in enumerate(self._indices):
            file = self._file(shard)
            keys += [read_key(file.descriptor, record, self.manifest.components, file.path) for record in index]
        return tuple(keys)

    def _named(self, error: ShardError, number: int, key: str) -> ShardError:
        """An error that says which sample it is of."""
        shard, _ = self.locate(number)
        return ShardError(f"{self.path / self.manifest.shards[shard].name}: sample {key}: {error}", error.reason)

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
                closed = next(iter(self._files))
                self._files.pop(closed)
                if self._prefetch:
                    self._prefetch.forget(self.manifest.shards[closed])
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


def _images_only(index: NDArray[np.void], names: Sequence[str]) -> NDArray[np.void]:
    """An index in which samples have neither a label nor any component but their image."""
    pictures = np.isin(names, PICTURES)
    pictured = (index["size"][:, pictures] > 0).any(axis=1, keepdims=True)
    images = np.where(pictured, pictures, np.asarray(names) == IMAGE)
    bare = index.copy()
    bare["label"] = NO_LABEL
    bare["size"] = np.where(images, index["size"], 0)
    return bare


class _File:
    """An open tar, closed when the last user lets go of it; `path` is where it comes from, for errors."""

    def __init__(self, file: Path, size: int, path: Location) -> None:
        self.path = path
        self.descriptor = -1
        try:
            self.descriptor = os.open(file, os.O_RDONLY)
        except OSError as error:
            raise ShardError(f"{path} cannot be read: {error.strerror}", "tar") from None
        check_size(path, os.fstat(self.descriptor).st_size, size)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
