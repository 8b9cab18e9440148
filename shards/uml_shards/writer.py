"""Write a split: an importer's items -> tars, their indices, and last of all the manifest.

Everything is first written under temporary names in the split's folder and renamed at the end, so a run that fails or
is killed leaves an older finished split as it was. The bytes depend on the items only: not on time, user or the number
of worker processes.
"""

import hashlib
import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .decode import Layout, decode_sample
from .errors import ShardError
from .importers.base import Importer, Source
from .index import Entry, make_index, save_index, scan_tar
from .keyed import keyed_permutation
from .manifest import FILE_NAME, Manifest, Shard
from .tally import Tally

SHARDS = 8
"""Shards that a split is cut into when it has the samples, so that up to 8 ranks read from different files."""

SAMPLES_PER_SHARD = 1000
"""Above SHARDS times this many samples there are more shards instead of larger ones."""

_TEMPORARY = ".tmp"
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_@+=-]{0,63}")


@dataclass(frozen=True)
class _Written:
    """What a worker hands back of one shard."""

    entries: list[Entry]
    bytes: int
    sha256: str
    tally: Tally


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
) -> Manifest:
    """Write one split into a folder.

    The items are shuffled first, by a key of (data set, split), so that every shard looks like the whole.

    Args:
        importer: encodes the items.
        split: its name.
        source: the items, and what the manifest says of them.
        folder: of the split; made when missing.
        workers: processes; they change nothing but the time.
        samples_per_shard: by default so that there are 8 shards, or more of 1000 samples.
        overwrite: replace a finished split.
        quiet: no progress bar.

    Raises:
        ShardError: the split is already there, an item cannot be encoded, or the disk is full; nothing new is left.
    """
    folder = Path(folder)
    if not source.items:
        raise ShardError(f"{importer.name}: split {split} has no samples")
    refuse_existing(folder, overwrite)
    runs = _cut(source.items, importer.name, split, samples_per_shard)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(folder)
        with tqdm(total=len(source.items), desc=split, unit="sample", disable=quiet or None) as bar:
            written = _write_shards(importer, source, runs, folder, workers, bar)
        manifest = _describe(importer, split, source, folder, written)
        _publish(manifest, folder)
    except BaseException as error:
        _remove_unfinished(folder)
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        if isinstance(error, OSError):
            raise ShardError(f"{folder} cannot be written: {error.strerror or error}") from None
        raise
    return manifest


def refuse_existing(folder: Path, overwrite: bool) -> None:
    """Stop before a finished split is touched.

    Raises:
        ShardError: it is there, and may not be overwritten.
    """
    if (folder / FILE_NAME).exists() and not overwrite:
        raise ShardError(f"{folder} already holds a finished split: pass --overwrite to replace it")


def shard_name(number: int) -> str:
    """File name of a tar, without its ending."""
    return f"shard-{number:06d}"


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


def _write_shards(
    importer: Importer, source: Source, runs: Sequence[Sequence[Any]], folder: Path, workers: int, bar: tqdm
) -> list[_Written]:
    layout = Layout(len(source.classes), len(source.mask_classes), source.mask_names)
    tasks = [(importer, layout, run, folder / f"{shard_name(n)}.tar{_TEMPORARY}") for n, run in enumerate(runs)]
    if workers <= 1:
        return [_write_shard(*task, advance=bar.update) for task in tasks]
    # It pulls in torch, for seconds: once here, and forked workers have it already.
    import webdataset  # noqa: F401

    context = multiprocessing.get_context()
    counter = context.Value("q", 0)
    with _pool(min(workers, len(tasks)), context, counter) as pool:
        futures = [pool.submit(_write_in_worker, *task) for task in tasks]
        pending: set[Future[_Written]] = set(futures)
        while pending:
            finished, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
            bar.update(counter.value - bar.n)
            for future in finished:
                future.result()
        return [future.result() for future in futures]


@contextmanager
def _pool(workers: int, context: Any, counter: Any) -> Iterator[ProcessPoolExecutor]:
    """A pool whose waiting tasks are dropped on an error, and whose death is one line."""
    pool = ProcessPoolExecutor(workers, context, _remember_counter, (counter,))
    try:
        yield pool
    except BrokenProcessPool:
        raise ShardError("a worker that writes shards was killed, perhaps for memory: use fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


_counter: Any = None
"""Samples done by all workers; set in each of them."""


def _remember_counter(counter: Any) -> None:
    global _counter
    _counter = counter


def _write_in_worker(importer: Importer, layout: Layout, items: Sequence[Any], path: Path) -> _Written:
    def advance(samples: int) -> None:
        with _counter.get_lock():
            _counter.value += samples

    return _write_shard(importer, layout, items, path, advance)


def _write_shard(importer: Importer, layout: Layout, items: Sequence[Any], path: Path, advance: Any) -> _Written:
    """Encode items into one tar; every sample is decoded and checked before it is written."""
    from webdataset.writer import TarWriter

    tally = Tally()
    with path.open("wb") as file:
        # TarWriter puts the components of a sample in alphabetical order.
        with TarWriter(file, encoder=False, mtime=0, user="uml", group="uml", mode=0o444) as tar:
            for item in items:
                key, components = importer.encode(item)
                if not _KEY.fullmatch(key):
                    raise ShardError(f"{importer.name}: key {key!r} must be 1 to 64 letters, digits or _@+=-")
                try:
                    tally.add(decode_sample(key, components, layout))
                except ShardError as error:
                    raise ShardError(f"{importer.name}: sample {key}: {error}") from None
                tar.write({"__key__": key, **components})
                advance(1)
        file.flush()
        os.fsync(file.fileno())
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _Written(scan_tar(path), path.stat().st_size, digest, tally)


def _describe(importer: Importer, split: str, source: Source, folder: Path, written: Sequence[_Written]) -> Manifest:
    """Write the indices, and say in a manifest what the tars hold."""
    entries = [entry for shard in written for entry in shard.entries]
    keys = {entry.key for entry in entries}
    if len(keys) != len(entries):
        raise ShardError(f"{importer.name}: split {split} has {len(entries)} samples of {len(keys)} different keys")
    components = tuple(sorted({extension for entry in entries for extension in entry.members}))
    tally = Tally()
    shards = []
    for number, shard in enumerate(written):
        tally.merge(shard.tally)
        name = shard_name(number)
        path = folder / f"{name}.index.npy{_TEMPORARY}"
        save_index(make_index(shard.entries, components, folder / f"{name}.tar"), path)
        shards.append(
            Shard(
                name=f"{name}.tar",
                bytes=shard.bytes,
                sha256=shard.sha256,
                samples=len(shard.entries),
                index=f"{name}.index.npy",
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


def _publish(manifest: Manifest, folder: Path) -> None:
    """Give everything its name, the manifest last; what an overwritten split had more goes."""
    (folder / FILE_NAME).unlink(missing_ok=True)
    names = {name for shard in manifest.shards for name in (shard.name, shard.index)}
    for name in sorted(names):
        (folder / f"{name}{_TEMPORARY}").replace(folder / name)
    for path in folder.glob("shard-*"):
        if path.name not in names:
            path.unlink()
    manifest.save(folder)


def _remove_unfinished(folder: Path) -> None:
    """Delete temporary files, and shards that no manifest describes."""
    patterns = [f"*{_TEMPORARY}"] if (folder / FILE_NAME).exists() else [f"*{_TEMPORARY}", "shard-*"]
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
