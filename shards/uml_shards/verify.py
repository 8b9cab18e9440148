"""The full check of shards: every byte against its digest, every sample decoded, every statement of the manifest."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .decode import Layout, decode_sample
from .errors import ShardError
from .index import build_index
from .manifest import Manifest, Shard
from .split import find_splits, load_checked_index, open_split, read_components
from .tally import Tally

STATISTICS_TOLERANCE = 1e-3
"""JPEG decoders differ by a grey level here and there, so statistics need not agree to the bit."""


def verify(path: str | Path, *, quiet: bool = False) -> list[str]:
    """Check a split folder, or all splits of a data set; keys must differ between a split and its siblings.

    Args:
        path: of the split or of the data set.
        quiet: no progress bar.

    Returns:
        One line for each problem; empty when all is well.
    """
    path = Path(path)
    splits = find_splits(path)
    if not splits:
        return [f"shard folder {path} holds no manifest.json, nor do the folders in it: make shards first"]
    problems = [problem for split in splits for problem in verify_split(split, quiet=quiet)]
    siblings = find_splits(path.resolve().parent) if splits == [path] else splits
    return problems + shared_keys(siblings)


def verify_split(path: Path, *, quiet: bool = False) -> list[str]:
    """Check everything that one split folder says of itself; one line for each problem."""
    try:
        manifest = Manifest.load(path)
    except ShardError as error:
        return [str(error)]
    problems: list[str] = []
    owners: dict[str, str] = {}
    tally = Tally()
    with tqdm(total=manifest.samples, desc=f"{path.name}", unit="sample", disable=quiet or None) as bar:
        for shard in manifest.shards:
            problems += _verify_shard(path, shard, manifest, owners, tally, bar)
    # Counts of samples that could not be read would only repeat what is already said.
    return problems or _verify_counts(path, manifest, tally)


def shared_keys(splits: list[Path]) -> list[str]:
    """One line for each pair of splits that have samples in common."""
    keys: dict[Path, set[str]] = {}
    for path in splits:
        try:
            keys[path] = set(open_split(path).keys())
        except ShardError:
            continue  # said when that split itself is verified
    problems = []
    for one, other in combinations(keys, 2):
        if common := sorted(keys[one] & keys[other]):
            problems.append(f"{one} and {other} share {len(common)} keys, first {common[0]}: splits must be disjoint")
    return problems


def _verify_shard(
    folder: Path, shard: Shard, manifest: Manifest, owners: dict[str, str], tally: Tally, bar: tqdm
) -> list[str]:
    tar = folder / shard.name
    try:
        index = load_checked_index(folder, shard, manifest)
        with tar.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                return [f"{tar}: its sha256 is not the manifest's: some of its bytes changed: copy or make it again"]
        if not np.array_equal(index, build_index(tar, manifest.components)):
            return [f"{tar}: its index {shard.index} points elsewhere than the tar's headers: make the shards again"]
    except ShardError as error:
        return [str(error)]
    except OSError as error:
        return [f"{tar} cannot be read: {error.strerror}"]
    problems = []
    layout = Layout.of(manifest)
    with _descriptor(tar) as descriptor:
        for record in index:
            bar.update()
            try:
                key, components = read_components(descriptor, record, manifest.components, tar)
            except ShardError as error:
                problems.append(str(error))
                continue
            if key in owners:
                problems.append(f"{tar}: duplicate key {key}: {owners[key]} has it too")
            owners[key] = shard.name
            try:
                tally.add(decode_sample(key, components, layout))
            except ShardError as error:
                problems.append(f"{tar}: sample {key}: {error}")
    return problems


def _verify_counts(path: Path, manifest: Manifest, tally: Tally) -> list[str]:
    """The manifest's statements about the whole split."""
    counts = tuple(tally.class_counts[label] for label in range(len(manifest.classes)))
    found = {
        "labelled": (manifest.labelled, tally.labelled),
        "masked": (manifest.masked, tally.masked),
        "class_counts": (manifest.class_counts, counts),
        "channels": (manifest.channels, tally.channels),
        "size": (manifest.size, tally.size),
    }
    problems = [
        f"{path}: the manifest says {name} {stated}, the samples {true}"
        for name, (stated, true) in found.items()
        if stated != true
    ]
    statistics = tally.statistics()
    for name in ("mean", "std"):
        stated, true = getattr(manifest.statistics, name), getattr(statistics, name)
        if len(stated) != len(true) or not np.allclose(stated, true, rtol=0.0, atol=STATISTICS_TOLERANCE):
            problems.append(f"{path}: the manifest says image {name} {stated}, the samples {true}")
    return problems


@contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
