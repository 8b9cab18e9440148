"""The shards of a split that is being written or whose writing was interrupted; the next run continues with them.

    <split>/.unfinished/lock                held by the writing run and its workers
                        writing.json        fingerprint: only a run of equal fingerprint continues
                        shard-000000.tar    a finished tar: written as *.tmp, checked, then renamed
                        shard-000000.json   its record, written last: a tar without it is ignored
                        finished.json       the manifest, once everything is written and about to be moved

An older split in the folder stays unchanged until the new one is completely written.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ..durable import TEMPORARY, replace_text
from ..errors import ShardError
from ..format.index import Entry
from ..format.manifest import FILE_NAME, Manifest
from ..lock import lock_file
from .skipped import FILE_NAME as SKIPPED_NAME
from .skipped import Skipped
from .tally import Tally

FOLDER = ".unfinished"

LOCK_SECONDS = 1.0
"""Timeout for the lock: the workers of a killed run hold it until they notice that their parent is gone."""


@dataclass(frozen=True)
class Written:
    """The record of a finished shard.

    Attributes:
        entries: positions of the samples in the tar.
        labels: labels of the samples.
        bytes: size of the tar in bytes.
        sha256: digest of the tar.
        tally: counts and statistics of the samples.
        skipped: samples that were skipped.
    """

    entries: list[Entry]
    labels: list[int | None]
    bytes: int
    sha256: str
    tally: Tally
    skipped: list[Skipped]


_WRITTEN = TypeAdapter(Written)


@dataclass(frozen=True)
class Unfinished:
    """The unfinished shards in a split's folder. Can be pickled into workers.

    Attributes:
        folder: the split's folder.
    """

    folder: Path

    @property
    def path(self) -> Path:
        """Folder of the unfinished shards."""
        return self.folder / FOLDER

    def tar(self, number: int) -> Path:
        """Return the path of a shard's tar."""
        return self.path / f"{shard_name(number)}.tar"

    def begin(self, fingerprint: str, *, anew: bool) -> None:
        """Prepare for writing; `anew` removes the files of an earlier run."""
        if anew:
            self.clear()
        replace_text(self.path / "writing.json", fingerprint)

    def holds(self, fingerprint: str) -> bool:
        """Whether the unfinished shards were written by a run of this fingerprint."""
        path = self.path / "writing.json"
        return path.exists() and path.read_text(encoding="utf-8") == fingerprint

    def finish(self, number: int, written: Written) -> None:
        """Rename the *.tmp file of a written shard, then write its record."""
        tar = self.tar(number)
        if written.entries:
            _temporary(tar).replace(tar)
        replace_text(tar.with_suffix(".json"), _WRITTEN.dump_json(written).decode())

    def find(self, number: int) -> Written | None:
        """Return the record of a finished shard if its tar has the recorded size and digest, else None."""
        tar = self.tar(number)
        try:
            written = _WRITTEN.validate_json(tar.with_suffix(".json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return written if not written.entries or _is(tar, written.bytes, written.sha256) else None

    def publish(self, manifest: Manifest, skipped: str) -> None:
        """Move the finished split into its folder, the manifest last. The next run completes an interrupted move.

        Args:
            manifest: manifest of the split; tars and indices already have the names it states.
            skipped: table of the skipped samples; empty if there are none.
        """
        if skipped:
            replace_text(self.path / SKIPPED_NAME, skipped)
        replace_text(self.path / "finished.json", manifest.model_dump_json())
        self._move(manifest)

    def publish_interrupted(self) -> Manifest | None:
        """Complete the move that a killed run began, if any. Damaged shards are discarded."""
        try:
            manifest = Manifest.model_validate_json((self.path / "finished.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        for shard in manifest.shards:
            tar, index = (_first(self.path / name, self.folder / name) for name in (shard.name, shard.index))
            if not (_is(tar, shard.bytes, shard.sha256) and _is(index, None, shard.index_sha256)):
                self.clear()
                return None
        self._move(manifest)
        return manifest

    def clear(self) -> None:
        """Remove everything except the lock."""
        for path in self.path.iterdir():
            if path.name != "lock":
                path.unlink()

    def _move(self, manifest: Manifest) -> None:
        """Move the files. Every step may already have been done by a killed run."""
        (self.folder / FILE_NAME).unlink(missing_ok=True)
        names = {name for shard in manifest.shards for name in (shard.name, shard.index)}
        for name in sorted(names):
            with suppress(FileNotFoundError):
                (self.path / name).replace(self.folder / name)
        for path in (*self.folder.glob("shard-*"), *self.folder.glob(f".*{TEMPORARY}")):
            if path.name not in names:
                path.unlink()
        if (self.path / SKIPPED_NAME).exists():
            shutil.copyfile(self.path / SKIPPED_NAME, self.folder / SKIPPED_NAME)
        else:
            (self.folder / SKIPPED_NAME).unlink(missing_ok=True)
        manifest.save(self.folder)
        # The fingerprint is removed first, so that a finished split is not written a second time.
        (self.path / "writing.json").unlink(missing_ok=True)
        self.clear()

    def _tidy(self) -> None:
        """Remove incomplete shards, and the folder if no finished shard is left in it."""
        for path in (*self.path.glob(f"*{TEMPORARY}"), *self.path.glob("shard-*.tar")):
            if path.suffix == TEMPORARY or not path.with_suffix(".json").exists():
                path.unlink()
        if not any(self.path.glob("shard-*.json")) and not (self.path / "finished.json").exists():
            shutil.rmtree(self.path, ignore_errors=True)
            with suppress(OSError):  # another run has just started, or the folder contains an older split
                self.folder.rmdir()


@contextmanager
def open_unfinished(folder: Path) -> Iterator[Unfinished]:
    """Lock the unfinished shards of a split for writing.

    Raises:
        ShardError: another run is writing this split.
    """
    unfinished = Unfinished(folder)
    descriptor = lock_file(unfinished.path / "lock", LOCK_SECONDS)
    if descriptor is None:
        raise ShardError(f"{folder} is being written by another run: wait for it or stop it")
    try:
        yield unfinished
    finally:
        unfinished._tidy()
        os.close(descriptor)


def shard_name(number: int) -> str:
    """Return the file name of a tar without its extension."""
    return f"shard-{number:06d}"


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + TEMPORARY)


def _is(path: Path, size: int | None, sha256: str) -> bool:
    try:
        if size not in (None, path.stat().st_size):
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def _first(*paths: Path) -> Path:
    """Return the first existing path, or else the last one."""
    return next((path for path in paths if path.exists()), paths[-1])
