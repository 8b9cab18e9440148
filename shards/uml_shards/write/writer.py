"""Write a split: an importer's items -> tars, their indices, and last of all the manifest.

A run that fails or is killed leaves an older finished split as it was, and its own finished shards for the next run
(`uml_shards.write.unfinished`). The bytes depend on the items only: not on time, user, interruptions or the number of
worker processes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import ShardError
from ..format.index import make_index, save_index
from ..format.manifest import FILE_NAME, Manifest, Shard
from ..importers.base import Importer, Source
from ..keyed import keyed_permutation
from .fingerprint import fingerprint_of
from .skipped import load_skipped, skipped_csv
from .tally import Tally
from .unfinished import FOLDER, Unfinished, Written, open_unfinished
from .workers import write_shards

SHARDS = 8
"""Shards that a split is cut into when it has the samples, so that up to 8 ranks read from different files."""

SAMPLES_PER_SHARD = 1000
"""Above SHARDS times this many samples there are more shards instead of larger ones."""

MAX_SKIPPED = 100
"""Samples that may be left out of a split, unless the user states another number."""


def write_split(
    importer: Importer,
    split: str,
    source: Source,
    folder: str | Path,
    *,
    workers: int = 1,
    samples_per_shard: int | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    on_bad_sample: Literal["error", "skip"] = "error",
    max_skipped: int = MAX_SKIPPED,
) -> Manifest:
    """Write one split into a folder, or go on where a run that was to write the same was cut short.

    The items are shuffled first, by a key of (data set, split), so that every shard looks like the whole.

    Args:
        importer: encodes the items.
        split: its name.
        source: the items, and what the manifest says of them.
        folder: of the split; made when missing.
        workers: processes; they change nothing but the time.
        samples_per_shard: by default so that there are 8 shards, or more of 1000 samples.
        overwrite: replace a finished split, and start anew.
        quiet: no progress bar, and no word of how many samples are kept.
        on_bad_sample: stop at a sample that cannot be used, or leave it out and list it in skipped.csv.
        max_skipped: stop when more samples than that are left out.

    Raises:
        ShardError: the split is already there or is being written, a sample cannot be used, or the disk is full; what
            is finished is kept for the next run.
    """
    folder = Path(folder)
    if not source.items:
        raise ShardError(f"{importer.name}: split {split} has no samples")
    runs = _cut(source.items, importer.name, split, samples_per_shard)
    if not overwrite and not (folder / FOLDER).exists():
        refuse_existing(folder)
    try:
        with open_unfinished(folder) as unfinished:
            fingerprint = fingerprint_of(importer, split, runs)
            same = not overwrite and unfinished.holds(fingerprint)
            published = unfinished.publish_interrupted()
            if same and published is not None:
                return published
            # A run that overwrites and is cut short need not be told again that it may.
            if not overwrite and not same:
                refuse_existing(folder)
            unfinished.begin(fingerprint, anew=not same)
            limit = max_skipped if on_bad_sample == "skip" else None
            written = write_shards(importer, source, runs, unfinished, workers, limit, quiet)
            try:
                manifest = _describe(importer, split, source, unfinished, written)
            except ShardError:
                unfinished.clear()  # the shards do not fit together: none of them can be kept
                raise
            skipped = [sample for shard in written for sample in shard.skipped]
            unfinished.publish(manifest, skipped_csv(skipped) if skipped else "")
            return manifest
    except OSError as error:
        kept = ": fix that and run it again, finished shards are kept" if (folder / FOLDER).exists() else ""
        raise ShardError(f"{folder} cannot be written: {error.strerror or error}{kept}") from None


def refuse_existing(folder: Path) -> None:
    """Stop before a finished split is touched.

    Raises:
        ShardError: it is there.
    """
    if (folder / FILE_NAME).exists():
        raise ShardError(f"{folder} already holds a finished split: pass --overwrite to replace it")


def unwritten(importer: Importer, sources: Mapping[str, Source], out: Path) -> dict[str, Source]:
    """The splits that a run has to write, when those that it, or one before that was cut short, finished are kept.

    Raises:
        ShardError: all are finished, or one was made in another way.
    """
    left = {name: source for name, source in sources.items() if not _is_finished(importer, source, out / name)}
    for name in sources:
        if name in left and (out / name / FOLDER).exists():
            continue  # begun: whether it may go on is seen there
        if name in left or not left:
            refuse_existing(out / name)
    return left


def _is_finished(importer: Importer, source: Source, folder: Path) -> bool:
    """Whether the split was made as this importer would make it, as far as its manifest tells."""
    if not (folder / FILE_NAME).exists() or (folder / FOLDER).exists():
        return False
    manifest = Manifest.load(folder)
    return (
        manifest.dataset == importer.name
        and manifest.options == importer.manifest_options
        and manifest.classes == source.classes
        and manifest.samples + len(load_skipped(folder)) == len(source.items)
    )


def _cut(items: Sequence[Any], dataset: str, split: str, samples_per_shard: int | None) -> list[list[Any]]:
    """The items of each shard; sizes differ by at most one."""
    count = len(items)
    if samples_per_shard is None:
        shards = max(min(SHARDS, count), -(-count // SAMPLES_PER_SHARD))
    elif samples_per_shard < 1:
        raise ShardError(f"{samples_per_shard} samples per shard: must be at least 1")
    else:
        shards = -(-count // samples_per_shard)
    order = keyed_permutation(count, "write order", dataset, split)
    return [[items[i] for i in order[n * count // shards : (n + 1) * count // shards]] for n in range(shards)]


def _describe(
    importer: Importer, split: str, source: Source, unfinished: Unfinished, written: Sequence[Written]
) -> Manifest:
    """Write the indices, and say in a manifest what the tars hold."""
    entries = [entry for shard in written for entry in shard.entries]
    if not entries:
        first = written[0].skipped[0]
        raise ShardError(f"{importer.name}: no sample of {split} can be used, the first {first.item}: {first.reason}")
    keys = {entry.key for entry in entries}
    if len(keys) != len(entries):
        raise ShardError(f"{importer.name}: split {split} has {len(entries)} samples of {len(keys)} different keys")
    components = tuple(sorted({extension for entry in entries for extension in entry.members}))
    tally = Tally()
    shards: list[Shard] = []
    for number, shard in enumerate(written):
        if not shard.entries:
            continue
        tally.merge(shard.tally)
        # Where all samples of a shard were left out, the names of those after it move up: stock readers count.
        tar = unfinished.tar(len(shards))
        unfinished.tar(number).replace(tar)
        path = tar.with_name(f"{tar.stem}.index.npy")
        save_index(make_index(shard.entries, components, shard.labels, tar), path)
        shards.append(
            Shard(
                name=tar.name,
                bytes=shard.bytes,
                sha256=shard.sha256,
                samples=len(shard.entries),
                index=path.name,
                index_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            )
        )
    return Manifest(
        dataset=importer.name,
        split=split,
        channels=tally.channels,
        size=tally.size,
        classes=source.classes,
        mask_classes=source.mask_classes,
        mask_names=source.mask_names,
        components=components,
        labelled=tally.labelled,
        masked=tally.masked,
        class_counts=tuple(tally.class_counts[label] for label in range(len(source.classes))),
        tasks=dict(source.tasks),
        statistics=tally.statistics(),
        options=importer.manifest_options,
        licence=importer.licence,
        source=importer.source,
        shards=tuple(shards),
    )
