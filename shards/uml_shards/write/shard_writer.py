"""Write one shard: encode items into a tar, check every sample by decoding it, and record the result."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from ..durable import TEMPORARY
from ..errors import ShardError
from ..format.decode import Layout, decode_sample
from ..format.index import scan_tar
from ..importers.base import Importer
from ..sample import Sample
from ..text import message_of
from .skipped import Skipped
from .tally import Tally
from .unfinished import Unfinished, Written

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_@+=-]{0,63}")


@dataclass(frozen=True)
class Task:
    """A shard to write; max_skipped is None if no sample may be skipped."""

    importer: Importer
    layout: Layout
    items: Sequence[Any]
    unfinished: Unfinished
    number: int
    max_skipped: int | None


class Counts:
    """Counters shared by all processes."""

    def __init__(self, context: Any, done: int, skipped: int, bar: tqdm | None = None) -> None:
        self.done, self.skipped = context.Value("q", done), context.Value("q", skipped)
        self.stopped = context.Event()
        self.bar = bar

    def advance(self) -> None:
        """Count a finished sample."""
        with self.done.get_lock():
            self.done.value += 1
        if self.bar is not None:
            self.bar.update()

    def skip(self) -> int:
        """Count a skipped sample and return the number of skipped samples."""
        with self.skipped.get_lock():
            self.skipped.value += 1
            return self.skipped.value


class StoppedError(Exception):
    """Raised in a worker after another worker has failed; only the other worker's error is reported."""


class _BadSampleError(Exception):
    """A sample that cannot be used, with the reason."""

    def __init__(self, item: str, reason: str) -> None:
        super().__init__(item, reason)
        self.item, self.reason = message_of(item), message_of(reason)


def write_shard(task: Task, counts: Counts) -> Written:
    """Encode items into a tar. Every sample is decoded and checked before it is written."""
    from webdataset.writer import TarWriter

    tally, labels, skipped = Tally(), {}, []
    task.importer.take_notes()  # of the data set
    tar = task.unfinished.tar(task.number)
    path = tar.with_name(tar.name + TEMPORARY)
    with path.open("wb") as file:
        # TarWriter sorts the components of a sample by extension.
        with TarWriter(file, encoder=False, mtime=0, user="uml", group="uml", mode=0o444) as writer:
            for item in task.items:
                if counts.stopped.is_set():
                    raise StoppedError
                try:
                    components, sample = _encode(task.importer, task.layout, item)
                except _BadSampleError as bad:
                    skipped.append(_skip(bad, task, counts))
                    task.importer.take_notes()  # of a sample that is not stored
                else:
                    if sample.key in labels:
                        raise ShardError(f"{task.importer.name}: two samples have the key {sample.key}")
                    labels[sample.key] = sample.label
                    _count(sample, tally, task.importer)
                    writer.write({"__key__": sample.key, **components})
                counts.advance()
        file.flush()
        os.fsync(file.fileno())
    if not labels:
        written = Written([], [], 0, "", tally, skipped)
    else:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        written = Written(scan_tar(path), list(labels.values()), path.stat().st_size, digest, tally, skipped)
    task.unfinished.finish(task.number, written)
    return written


def _encode(importer: Importer, layout: Layout, item: Any) -> tuple[dict[str, bytes], Sample]:
    """Return the components of a sample and the decoded sample."""
    # A key, where items have one, identifies the sample better than the item's repr.
    name = str(getattr(item, "key", None) or repr(item))
    try:
        key, components = importer.encode(item)
    except ShardError as error:
        raise _BadSampleError(name, str(error)) from None
    except OSError as error:
        raise _BadSampleError(name, f"{error.filename or 'a file'} cannot be read: {error.strerror}") from None
    if not _KEY.fullmatch(key):
        raise _BadSampleError(name, f"{importer.name}: key {key!r} must be 1 to 64 letters, digits or _@+=-")
    try:
        return components, decode_sample(key, components, layout)
    except ShardError as error:
        raise _BadSampleError(key, str(error)) from None


def _count(sample: Sample, tally: Tally, importer: Importer) -> None:
    """Add a sample to a tally. A sample inconsistent with the others is an error even if bad samples are skipped."""
    try:
        tally.add(sample, importer.take_notes())
    except ShardError as error:
        raise ShardError(f"{importer.name}: sample {sample.key}: {error}") from None


def _skip(bad: _BadSampleError, task: Task, counts: Counts) -> Skipped:
    """Skip a sample if that is allowed."""
    name = task.importer.name
    if task.max_skipped is None:
        # If the key is unknown, the importer's message names the file.
        where = f"{name}: sample {bad.item}: " if _KEY.fullmatch(bad.item) else ""
        raise ShardError(f"{where}{bad.reason} (pass --on-bad-sample skip to skip such samples)")
    if counts.skip() > task.max_skipped:
        problem = f"more than {task.max_skipped} samples cannot be used, one of them {bad.item}: {bad.reason}"
        raise ShardError(f"{name}: {problem}: fix the data, or pass a larger --max-skipped")
    return Skipped(bad.item, bad.reason)
