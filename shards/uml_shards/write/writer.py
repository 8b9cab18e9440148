"""Write a split: encode an importer's items into tars, then write the indices and finally the manifest.

A run that fails or is killed leaves an older finished split unchanged and keeps its own finished shards for the next
run (`uml_shards.write.unfinished`). The bytes depend on the items only, not on time, user, interruptions or the number
of worker processes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from ..errors import ShardError
from ..format.index import make_index, save_index
from ..format.manifest import FILE_NAME, Manifest, Shard
from ..importers.base import Importer, Source
from ..keyed import keyed_permutation
from ..names import check_file_name, check_text
from ..strict_json import first_problem
from .fingerprint import fingerprint_of
from .skipped import load_skipped, skipped_csv
from .tally import Tally
from .unfinished import FOLDER, Unfinished, Written, open_unfinished
from .workers import write_shards

SHARDS = 8
"""Number of shards of a split with enough samples, so that up to 8 ranks read from different files."""

SAMPLES_PER_SHARD = 1000
"""A split of more than SHARDS times this number of samples gets more shards instead of larger ones."""

MAX_SKIPPED = 100
"""Default for the largest number of samples that may be skipped in a split."""


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
    """Write a split into a folder, or continue an interrupted run of the same split.

    The items are first shuffled by a key of (data set, split), so that every shard is a random sample of the split.

    Args:
        importer: importer that encodes the items.
        split: name of the split.
        source: the items and their description.
        folder: folder of the split; created if missing.
        workers: number of processes; does not affect the result.
        samples_per_shard: samples in each shard; by default chosen to give 8 shards, or more shards of 1000 samples.
        overwrite: whether to replace a finished split and discard unfinished shards.
        quiet: whether to hide the progress bar and the number of samples kept from an earlier run.
        on_bad_sample: "error" stops at a sample that cannot be used; "skip" omits it and lists it in skipped.csv.
        max_skipped: largest number of skipped samples.

    Raises:
        ShardError: the split already exists or is being written, a sample cannot be used, or the disk is full. Finished
            shards are kept for the next run.
    """
    folder = Path(folder)
    check_file_name(importer.name, "importer")
    check_file_name(split, f"{importer.name}: split")
    check_text(importer.licence, f"{importer.name}: licence")
    check_text(importer.source, f"{importer.name}: source")
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
            # An interrupted run with --overwrite can be continued without --overwrite.
            if not overwrite and not same:
                refuse_existing(folder)
            unfinished.begin(fingerprint, anew=not same)
            limit = max_skipped if on_bad_sample == "skip" else None
            written = write_shards(importer, source, runs, unfinished, workers, limit, quiet)
            try:
                manifest = _describe(importer, split, source, unfinished, written)
            except ShardError:
                unfinished.clear()  # the shards are inconsistent with each other: none of them can be kept
                raise
            skipped = [sample for shard in written for sample in shard.skipped]
            unfinished.publish(manifest, skipped_csv(skipped) if skipped else "")
            return manifest
    except OSError as error:
        kept = ": fix this and run the command again, finished shards are kept" if (folder / FOLDER).exists() else ""
        raise ShardError(f"{folder} cannot be written: {error.strerror or error}{kept}") from None


def refuse_existing(folder: Path) -> None:
    """Check that a folder contains no finished split.

    Raises:
        ShardError: the folder contains one.
    """
    if (folder / FILE_NAME).exists():
        raise ShardError(f"{folder} already contains a finished split: pass --overwrite to replace it")


def unwritten(importer: Importer, sources: Mapping[str, Source], out: Path) -> dict[str, Source]:
    """Return the splits that are still to be written. Splits finished by an earlier, interrupted run are kept.

    Raises:
        ShardError: all splits are finished, or a finished split was written with other options.
    """
    left = {name: source for name, source in sources.items() if not _is_finished(importer, source, out / name)}
    for name in sources:
        if name in left and (out / name / FOLDER).exists():
            continue  # started: `write_split` decides whether it can be continued
        if name in left or not left:
            refuse_existing(out / name)
    return left


def _is_finished(importer: Importer, source: Source, folder: Path) -> bool:
    """Whether the split was written by this importer with the same options, according to its manifest."""
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
    """Return the items of each shard; sizes differ by at most one."""
    count = len(items)
    if samples_per_shard is None:
        shards = max(min(SHARDS, count), -(-count // SAMPLES_PER_SHARD))
    elif samples_per_shard < 1:
        raise ShardError(f"samples_per_shard={samples_per_shard}: must be at least 1")
    else:
        shards = -(-count // samples_per_shard)
    order = keyed_permutation(count, "write order", dataset, split)
    return [[items[i] for i in order[n * count // shards : (n + 1) * count // shards]] for n in range(shards)]


def _describe(
    importer: Importer, split: str, source: Source, unfinished: Unfinished, written: Sequence[Written]
) -> Manifest:
    """Write the indices and build the manifest."""
    entries = [entry for shard in written for entry in shard.entries]
    if not entries:
        first = written[0].skipped[0]
        raise ShardError(f"{importer.name}: no sample of {split} can be used, first {first.item}: {first.reason}")
    keys = {entry.key for entry in entries}
    if len(keys) != len(entries):
        raise ShardError(
            f"{importer.name}: split {split} has {len(entries)} samples but only {len(keys)} different keys"
        )
    components = tuple(sorted({extension for entry in entries for extension in entry.members}))
    tally = Tally()
    shards: list[Shard] = []
    for number, shard in enumerate(written):
        if not shard.entries:
            continue
        tally.merge(shard.tally)
        # If all samples of a shard were skipped, later shards are renumbered: standard readers expect no gaps.
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
    try:
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
            notes=tally.summary(),
            options=importer.manifest_options,
            licence=importer.licence,
            source=importer.source,
            shards=tuple(shards),
        )
    except ValidationError as error:
        raise ShardError(f"{importer.name}: split {split} is not valid: {first_problem(error)}") from None
