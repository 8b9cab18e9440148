"""Open a split for random access: each sample is read with one `pread`."""

import copy
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..address import Address, Location, parse_location
from ..errors import ShardError, reading, reason_of
from ..files import open_regular
from ..format.decode import Layout, decode_sample
from ..format.index import NO_LABEL
from ..format.manifest import FILE_NAME, Manifest
from ..format.members import read_components, read_key, read_parts
from ..format.patch import read_patch_sample
from ..format.volume import IMAGE, MASK
from ..sample import PICTURES, Sample
from ..storage.cache import Cache
from ..storage.prefetch import Prefetch
from ..storage.storage import open_storage
from ..storage.verified import Verify, check_size
from ..strict_json import parse_json
from ..tally import count
from .indices import Changed, open_indices
from .names import with_names_of

OPEN_FILES = 128
"""Largest number of tars that a process keeps open; most systems allow 1024 files."""


class Split:
    """The samples of one split, by number.

    Samples are numbered over the shards in manifest order. A split can be pickled and used in forked or spawned
    workers: each process opens a tar at its first read, and `pread` does not use a shared file position.

    Args:
        path: the split's folder or URL.
        cache: cache for the files of a URL; default if None.
        verify: "first-use": each process compares the sha256 of a local tar with the manifest's before its first
            read, unless that was done before and the file has not changed since; "never": it does not.

    Attributes:
        path: location of the split; an `Address` is printed without password.
        manifest: its manifest, with the names of `with_names`.
        digest: digest of its own manifest.

    Raises:
        ShardError: a file is missing, or manifest, index and size of a tar do not match. The tars are not read yet.
    """

    def __init__(self, path: str | Location, cache: Cache | None = None, verify: Verify = "first-use") -> None:
        self.path = parse_location(path)
        self._storage = open_storage(self.path, cache, verify)
        self.manifest = self._storage.load_manifest()
        self.digest = self.manifest.digest
        self.layout = Layout.of(self.manifest)
        self._indices = open_indices(self._storage, self.path, self.manifest, self.digest, (cache or Cache()).place)
        self._bounds = [0, *accumulate(shard.samples for shard in self.manifest.shards)]
        self._files: dict[int, _File] = {}
        self._prefetch: Prefetch | None = None

    def __len__(self) -> int:
        return self._bounds[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}, "_prefetch": None}

    def locate(self, number: int) -> tuple[int, int]:
        """Return the shard of a sample and the sample's row in it.

        Raises:
            IndexError: the number is out of range.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)} in {self.path}")
        shard = bisect_right(self._bounds, number) - 1
        return shard, number - self._bounds[shard]

    def components(self, number: int) -> tuple[str, dict[str, bytes]]:
        """Read the key of a sample and the bytes of its components, by extension.

        Raises:
            ShardError: the tar is missing or does not match manifest or index.
        """
        shard, row = self.locate(number)
        file = self._file(shard)
        try:
            return read_components(file.descriptor, self._indices[shard][row], self.manifest.components, file.path)
        except OSError as error:
            raise ShardError(f"{file.path} cannot be read: {reason_of(error)}", "tar") from None

    def read(self, number: int) -> Sample:
        """Read, decode and check a sample.

        Raises:
            ShardError: the sample cannot be read; the message names shard, key and reason.
            IndexError: the number is out of range.
        """
        key, components = self.components(number)
        try:
            return decode_sample(key, components, self.layout)
        except Exception as error:
            raise self._named(error, number, key) from None

    def read_patch(self, number: int, size: Sequence[int], place: Sequence[float]) -> Sample:
        """Read a sample whose image and mask are a patch of the volume. Only the patch is read.

        Args:
            number: number of the sample.
            size: (3,) size of the patch in voxels. Around a smaller volume the edge is repeated and the mask is 255.
            place: (3,) position of the patch's corner in [0, 1), relative to all possible corners along each axis.

        Raises:
            ShardError: the sample cannot be read; the message names shard, key and reason.
        """
        shard, row = self.locate(number)
        file = self._file(shard)
        with reading(file.path, "tar"):
            key, parts = read_parts(file.descriptor, self._indices[shard][row], self.manifest.components, file.path)
        try:
            return read_patch_sample(file.descriptor, key, parts, self.layout, size, place)
        except Exception as error:
            raise self._named(error, number, key) from None

    def prefetch(self, number: int) -> None:
        """Start to fetch the shard of a sample that will be read soon, if the split is behind a URL; never blocks."""
        if not isinstance(self.path, Address):
            return
        shard, _ = self.locate(number)
        if shard not in self._files:
            self._prefetch = self._prefetch or Prefetch(self._storage)
            self._prefetch.want(self.manifest.shards[shard])

    def labels(self) -> NDArray[np.int32]:
        """Return the labels (N,) of all samples, in order; -1 = not labelled. No tar is read."""
        return np.concatenate([index["label"] for index in self._indices])

    def masked(self) -> NDArray[np.bool_]:
        """Return which samples (N,) have a mask. No tar is read."""
        columns = _of_masks(self.manifest)
        return np.concatenate([(index["size"][:, columns] > 0).any(axis=1) for index in self._indices])

    def sizes(self) -> tuple[int, ...]:
        """Return the number of samples in each shard."""
        return tuple(shard.samples for shard in self.manifest.shards)

    def without_truth(self) -> "Split":
        """Return the same samples as bare images; labels, masks and other components are never read."""
        bare = copy.copy(self)
        bare.layout = replace(self.layout, labelled=False, masked=False)
        bare._indices = Changed(self._indices, partial(_images_only, names=self.manifest.components))
        bare._files, bare._prefetch = {}, None
        return bare

    def without_masks(self) -> "Split":
        """Return the same samples with their labels, but without masks, which are never read."""
        bare = copy.copy(self)
        bare.layout = replace(self.layout, masked=False)
        bare._indices = Changed(self._indices, partial(_no_masks, masks=_of_masks(self.manifest)))
        bare._files, bare._prefetch = {}, None
        return bare

    def with_names(self, other: Manifest, classes: bool = True, masks: bool = True) -> "Split":
        """Return the same samples with the names of another manifest where theirs states none."""
        named = copy.copy(self)
        named.manifest = with_names_of(self.manifest, other, classes, masks)
        named._files, named._prefetch = {}, None
        return named

    def keys(self) -> tuple[str, ...]:
        """Return the keys of all samples, in order, with one short read each.

        Raises:
            ShardError: see `components`.
        """
        keys = []
        for shard, index in enumerate(self._indices):
            file = self._file(shard)
            with reading(file.path, "tar"):
                keys += [read_key(file.descriptor, record, self.manifest.components, file.path) for record in index]
        return tuple(keys)

    def patients(self) -> tuple[str, ...]:
        """Return the patient of every sample, in order; see `cases`."""
        return tuple(patient for _, patient in self.cases())

    def cases(self) -> tuple[tuple[str, str], ...]:
        """Return key and patient of every sample, in order; the patient is "" where its json states none.

        No image is read. A json that cannot be parsed states none: reading the sample itself reports it.

        Raises:
            ShardError: see `components`.
        """
        described = np.asarray(self.manifest.components) == "json"
        found = []
        for shard, index in enumerate(self._indices):
            only = index.copy()
            only["size"] = np.where(described, index["size"], 0)
            file = self._file(shard)
            with reading(file.path, "tar"):
                found += [self._case(file, record, json) for record, json in zip(index, only, strict=True)]
        return tuple(found)

    def _case(self, file: "_File", record: np.void, json: np.void) -> tuple[str, str]:
        """Return key and patient of a sample, from its index row, of which one has nothing but the json."""
        names = self.manifest.components
        if not json["size"].any():
            return read_key(file.descriptor, record, names, file.path), ""
        key, parts = read_parts(file.descriptor, json, names, file.path)
        try:
            meta = parse_json(parts["json"].head)
        except Exception:  # whatever the parser raises on damaged data
            return key, ""
        patient = meta.get("patient") if isinstance(meta, dict) else None
        return key, "" if patient is None else str(patient)

    def _named(self, error: Exception, number: int, key: str) -> ShardError:
        """Return an error that names the sample, for any error of a decoder."""
        shard, _ = self.locate(number)
        problem, reason = (str(error), error.reason) if isinstance(error, ShardError) else (reason_of(error), "other")
        return ShardError(f"{self.path / self.manifest.shards[shard].name}: sample {key}: {problem}", reason)

    def _file(self, shard: int) -> "_File":
        file = self._files.get(shard)
        if file is None:
            stated = self.manifest.shards[shard]
            with self._storage.tar(stated) as path:
                file = _File(path, stated.bytes, self.path / stated.name)
            count("shards_opened")
            if len(self._files) >= OPEN_FILES:
                closed = next(iter(self._files))
                self._files.pop(closed)
                if self._prefetch:
                    self._prefetch.forget(self.manifest.shards[closed])
            self._files[shard] = file
        return file


def open_split(path: str | Location, cache: Cache | None = None, verify: Verify = "first-use") -> Split:
    """Open a split folder, such as data/shards/phantom/train, or the URL of one.

    Args:
        path: folder or URL of the split. URLs may be http, https or any scheme supported by fsspec.
        cache: cache for the files of a URL; default if None.
        verify: whether to hash each tar in a folder at its first use; see `Split`.

    Raises:
        ShardError: the split does not exist, the path is a data set instead of a split, or files do not match or cannot
            be fetched.
    """
    path = parse_location(path)
    if isinstance(path, Path) and (splits := find_splits(path)) and splits != [path]:
        names = ", ".join(split.name for split in splits)
        raise ShardError(f"shard folder {path} is a data set: choose one of its splits: {names}")
    return Split(path, cache, verify)


def find_splits(path: str | Location) -> Sequence[Location]:
    """Return the splits at a path: the path itself, or those inside it, sorted by name; empty if there are none.

    A URL is assumed to be a split, since the contents of a remote folder cannot be listed.

    Raises:
        ShardError: the folder cannot be read.
    """
    path = parse_location(path)
    if isinstance(path, Address):
        return [path]
    with reading(path):
        return [path] if (path / FILE_NAME).exists() else sorted(m.parent for m in path.glob(f"*/{FILE_NAME}"))


def _of_masks(manifest: Manifest) -> NDArray[np.bool_]:
    """Return which components (of the manifest, in its order) are masks."""
    names = [f"mask.{name}.png" for name in manifest.mask_names] or ["mask.png", "seg.png", MASK]
    return np.isin(manifest.components, names)


def _no_masks(index: NDArray[np.void], masks: NDArray[np.bool_]) -> NDArray[np.void]:
    """Return a copy of an index without some components, the masks."""
    bare = index.copy()
    bare["size"][:, masks] = 0
    return bare


def _images_only(index: NDArray[np.void], names: Sequence[str]) -> NDArray[np.void]:
    """Return a copy of an index without labels and without any component except the image."""
    pictures = np.isin(names, PICTURES)
    pictured = (index["size"][:, pictures] > 0).any(axis=1, keepdims=True)
    images = np.where(pictured, pictures, np.asarray(names) == IMAGE)
    bare = index.copy()
    bare["label"] = NO_LABEL
    bare["size"] = np.where(images, index["size"], 0)
    return bare


class _File:
    """An open tar, closed when it is no longer referenced; `path` is its origin, for error messages."""

    def __init__(self, file: Path, size: int, path: Location) -> None:
        self.path = path
        self.descriptor = -1
        with reading(path, "tar"):
            self.descriptor = open_regular(file)
        check_size(path, os.fstat(self.descriptor).st_size, size)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
