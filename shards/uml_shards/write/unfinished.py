"""The shards of a split that is being written, or whose writing was cut short: what the next run goes on with.

    <split>/.unfinished/lock                held by the run that writes, and by its workers
                        writing.json        what is written: only a run that writes the same goes on
                        shard-000000.tar    finished: written as *.tmp, checked, then renamed
                        shard-000000.json   its record, written last: without it the tar does not count
                        finished.json       the manifest: all is written, and is about to move into the split's folder

An older split in the folder stays as it is until everything of the new one is written.
"""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ..errors import ShardError
from ..format.index import Entry
from ..format.manifest import FILE_NAME, Manifest
from .skipped import FILE_NAME as SKIPPED_NAME
from .skipped import Skipped
from .tally import Tally

FOLDER = ".unfinished"
TEMPORARY = ".tmp"

LOCK_SECONDS = 1.0
"""How long a lock is waited for: the workers of a killed run hold it until they have noticed."""


@dataclass(frozen=True)
class Written:
    """The record of a finished shard.

    Attributes:
        entries: where its samples lie.
        labels: of the samples.
        bytes: of the tar.
        sha256: of the tar.
        tally: of its samples.
        skipped: the samples that were left out of it.
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
    """The unfinished shards in a split's folder. May be pickled into workers.

    Attributes:
        folder: of the split.
    """

    folder: Path

    @property
    def path(self) -> Path:
        """Where they lie."""
        return self.folder / FOLDER

    def tar(self, number: int) -> Path:
        """The file of one shard."""
        return self.path / f"{shard_name(number)}.tar"

    def begin(self, fingerprint: str, *, anew: bool) -> None:
        """Get ready to write; anew removes what an earlier run left."""
        if anew:
            self.clear()
        replace_file(self.path / "writing.json", fingerprint)

    def holds(self, fingerprint: str) -> bool:
        """Whether what lies here was written by a run of this fingerprint."""
        path = self.path / "writing.json"
        return path.exists() and path.read_text(encoding="utf-8") == fingerprint

    def finish(self, number: int, written: Written) -> None:
        """Give a shard that is written as *.tmp its name, then its record."""
        tar = self.tar(number)
        if written.entries:
            _temporary(tar).replace(tar)
        replace_file(tar.with_suffix(".json"), _WRITTEN.dump_json(written).decode())

    def find(self, number: int) -> Written | None:
        """The record of a finished shard, once its tar is found to hold the bytes that it states."""
        tar = self.tar(number)
        try:
            written = _WRITTEN.validate_json(tar.with_suffix(".json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return written if not written.entries or _is(tar, written.bytes, written.sha256) else None

    def publish(self, manifest: Manifest, skipped: str) -> None:
        """Move the finished split into its folder, the manifest last. A run that is killed in here is taken up again.

        Args:
            manifest: of the split; tars and indices lie here under its names.
            skipped: the table of what was left out; empty when nothing was.
        """
        if skipped:
            replace_file(self.path / SKIPPED_NAME, skipped)
        replace_file(self.path / "finished.json", manifest.model_dump_json())
        self._move(manifest)

    def publish_interrupted(self) -> Manifest | None:
        """Finish the publishing that a killed run began, if one did; what is damaged is given up."""
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
        """Remove everything but the lock."""
        for path in self.path.iterdir():
            if path.name != "lock":
                path.unlink()

    def _move(self, manifest: Manifest) -> None:
        """Every step may find its work done already."""
        (self.folder / FILE_NAME).unlink(missing_ok=True)
        names = {name for shard in manifest.shards for name in (shard.name, shard.index)}
        for name in sorted(names):
            with suppress(FileNotFoundError):
                (self.path / name).replace(self.folder / name)
        for path in self.folder.glob("shard-*"):
            if path.name not in names:
                path.unlink()
        if (self.path / SKIPPED_NAME).exists():
            shutil.copyfile(self.path / SKIPPED_NAME, self.folder / SKIPPED_NAME)
        else:
            (self.folder / SKIPPED_NAME).unlink(missing_ok=True)
        manifest.save(self.folder)
        # First of all the word that a run could go on here: a finished split is not written a second time.
        (self.path / "writing.json").unlink(missing_ok=True)
        self.clear()

    def _tidy(self) -> None:
        """Remove what does not count; and the folder, where no finished shard is left in it."""
        for path in (*self.path.glob(f"*{TEMPORARY}"), *self.path.glob("shard-*.tar")):
            if path.suffix == TEMPORARY or not path.with_suffix(".json").exists():
                path.unlink()
        if not any(self.path.glob("shard-*.json")) and not (self.path / "finished.json").exists():
            shutil.rmtree(self.path, ignore_errors=True)
            with suppress(OSError):  # another run has just come, or an older split is in there
                self.folder.rmdir()


@contextmanager
def open_unfinished(folder: Path) -> Iterator[Unfinished]:
    """The unfinished shards of a split, for the one run that may write them.

    Raises:
        ShardError: another run writes this split.
    """
    unfinished = Unfinished(folder)
    descriptor = _lock(unfinished.path / "lock")
    try:
        yield unfinished
    finally:
        unfinished._tidy()
        os.close(descriptor)


def shard_name(number: int) -> str:
    """File name of a tar, without its ending."""
    return f"shard-{number:06d}"


def replace_file(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all, power cut or not."""
    temporary = _temporary(path)
    with temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + TEMPORARY)


def _lock(path: Path) -> int:
    """An open lock file. Forked workers inherit the lock: it is free when the last of them has ended."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:  # else the run that had it has just removed it
                return descriptor
        except BlockingIOError:
            pass
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise ShardError(f"{path.parent.parent} is being written by another run: wait for it, or stop it")
        time.sleep(0.05)


def _is(path: Path, size: int | None, sha256: str) -> bool:
    try:
        if size not in (None, path.stat().st_size):
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def _first(*paths: Path) -> Path:
    """The first that is there; else the last."""
    return next((path for path in paths if path.exists()), paths[-1])
