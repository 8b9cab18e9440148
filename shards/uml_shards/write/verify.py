"""Verify shards completely: digests of all files, decoding of every sample, all fields of the manifest."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..address import Address, Location, parse_location
from ..errors import ShardError, reason_of
from ..format.decode import Layout, decode_sample, find_image
from ..format.index import NO_LABEL, build_index
from ..format.manifest import Manifest, Shard
from ..format.members import read_components
from ..read.indices import load_checked_index
from ..read.split import find_splits, open_split
from ..storage.cache import Cache
from ..storage.storage import Storage, open_storage
from .tally import Tally

STATISTICS_TOLERANCE = 1e-3
"""JPEG decoders may differ by a grey level in some pixels, so statistics need not be exactly equal."""


def verify(path: str | Location, *, cache: Cache | None = None, quiet: bool = False) -> list[str]:
    """Check a split folder, or all splits of a data set, which must share neither keys nor images.

    The keys of a split are also compared with those of its siblings.

    Args:
        path: folder of the split or of the data set; or the URL of a split, whose cached files are read again.
        cache: cache for the files of a URL; default if None.
        quiet: whether to hide the progress bar.

    Returns:
        One line per problem; empty if there are none.
    """
    path = parse_location(path)
    splits = find_splits(path)
    if not splits:
        return [f"shard folder {path} and its subfolders contain no manifest.json: make shards first"]
    images: dict[Location, dict[bytes, str]] = {split: {} for split in splits}
    problems = [
        line for split in splits for line in verify_split(split, cache=cache, quiet=quiet, images=images[split])
    ]
    if isinstance(path, Address):
        return problems
    siblings = find_splits(path.resolve().parent) if splits == [path] else splits
    return problems + shared_keys(siblings) + shared_images(images)


def verify_split(
    path: Location, *, cache: Cache | None = None, quiet: bool = False, images: dict[bytes, str] | None = None
) -> list[str]:
    """Check everything that a split's manifest states; returns one line per problem.

    Args:
        path: folder or URL of the split.
        cache: cache for the files of a URL; default if None.
        quiet: whether to hide the progress bar.
        images: is filled with digest of the stored image -> key, unless the split was made with duplicates=keep.
    """
    storage = open_storage(path, cache)
    try:
        manifest = storage.load_manifest()
    except ShardError as error:
        return [str(error)]
    check = _Check(storage, path, manifest)
    problems: list[str] = []
    with tqdm(total=manifest.samples, desc=f"{path.name}", unit="sample", disable=quiet or None) as bar:
        for shard in manifest.shards:
            problems += check.shard(shard, bar)
    if images is not None and manifest.options.get("duplicates") != "keep":
        images.update(check.images)
    # If samples could not be read, wrong counts would only repeat the same problems.
    return problems or check.counts()


def shared_keys(splits: Sequence[Location]) -> list[str]:
    """Return one line for each pair of splits that share keys."""
    keys: dict[Location, set[str]] = {}
    for path in splits:
        try:
            keys[path] = set(open_split(path, verify="never").keys())
        except ShardError:
            continue  # reported when that split itself is verified
    problems = []
    for one, other in combinations(keys, 2):
        if common := sorted(keys[one] & keys[other]):
            problems.append(
                f"{one} and {other} share {len(common)} keys, the first is {common[0]}: splits must be disjoint"
            )
    return problems


def shared_images(images: Mapping[Location, Mapping[bytes, str]]) -> list[str]:
    """Return one line for each pair of splits that contain the same image under different keys.

    Args:
        images: split -> digest of the stored image -> key.
    """
    problems = []
    for one, other in combinations(images, 2):
        both = images[one].keys() & images[other].keys()
        common = sorted((images[one][digest], images[other][digest]) for digest in both)
        common = [(key, copy) for key, copy in common if key != copy]
        if common:
            first, copy = common[0]
            problems.append(
                f"{one} and {other} share {len(common)} identical images, the first is {first} and {copy}: remove one "
                "of each pair and make the shards again (the importer folder does so with duplicates=drop)"
            )
    return problems


class _Check:
    """The state of the check of one split."""

    def __init__(self, storage: Storage, path: Location, manifest: Manifest) -> None:
        self.storage, self.path, self.manifest = storage, path, manifest
        self.layout = Layout.of(manifest)
        self.owners: dict[str, str] = {}
        self.images: dict[bytes, str] = {}
        self.tally = Tally()

    def shard(self, shard: Shard, bar: tqdm) -> list[str]:
        """Check a tar, its index and its samples; returns one line per problem."""
        tar = self.path / shard.name
        try:
            index = load_checked_index(self.storage, self.path, shard, self.manifest)
            with self.storage.tar(shard, rehash=True) as path, path.open("rb") as file:
                if not _same_offsets(index, _scan(path, tar, self.manifest)):
                    return [f"{tar}: its index {shard.index} does not match the tar's headers: make the shards again"]
                return list(self._samples(shard, index, file.fileno(), bar))
        except ShardError as error:
            return [str(error)]
        except Exception as error:  # whatever a library raises on damaged bytes
            return [f"{tar} cannot be read: {reason_of(error)}"]

    def _samples(self, shard: Shard, index: NDArray[np.void], descriptor: int, bar: tqdm) -> Iterator[str]:
        tar = self.path / shard.name
        for record in index:
            bar.update()
            try:
                key, components = read_components(descriptor, record, self.manifest.components, tar)
            except ShardError as error:
                yield str(error)
                continue
            if key in self.owners:
                yield f"{tar}: duplicate key {key}: it is also in {self.owners[key]}"
            self.owners[key] = shard.name
            try:
                sample = decode_sample(key, components, self.layout)
                self.images[hashlib.blake2b(components[find_image(components)], digest_size=16).digest()] = key
                self.tally.add(sample)
            except ShardError as error:
                yield f"{tar}: sample {key}: {error}"
                continue
            if int(record["label"]) != (NO_LABEL if sample.label is None else sample.label):
                yield (
                    f"{tar}: sample {key} has label {sample.label}, but its index states {record['label']}: make the "
                    "shards again"
                )

    def counts(self) -> list[str]:
        """Check the manifest's counts and statistics of the split; returns one line per problem."""
        manifest, tally = self.manifest, self.tally
        counts = tuple(tally.class_counts[label] for label in range(len(manifest.classes)))
        found = {
            "labelled": (manifest.labelled, tally.labelled),
            "masked": (manifest.masked, tally.masked),
            "class_counts": (manifest.class_counts, counts),
            "channels": (manifest.channels, tally.channels),
            "size": (manifest.size, tally.size),
        }
        problems = [
            f"{self.path}: the manifest states {name} {stated}, but the samples have {true}"
            for name, (stated, true) in found.items()
            if stated != true
        ]
        statistics = tally.statistics()
        for name in ("mean", "std"):
            stated, true = getattr(manifest.statistics, name), getattr(statistics, name)
            if len(stated) != len(true) or not np.allclose(stated, true, rtol=0.0, atol=STATISTICS_TOLERANCE):
                problems.append(f"{self.path}: the manifest states image {name} {stated}, but the samples have {true}")
        return problems


def _scan(file: Path, tar: Location, manifest: Manifest) -> NDArray[np.void]:
    """Build the index of a tar. Errors name the tar's origin, not its copy in the cache."""
    try:
        return build_index(file, manifest.components)
    except ShardError as error:
        raise ShardError(str(error).replace(str(file), str(tar))) from None


def _same_offsets(index: NDArray[np.void], other: NDArray[np.void]) -> bool:
    """Whether two indices of a tar have the same offsets."""
    return all(np.array_equal(index[column], other[column]) for column in ("base", "start", "size"))
