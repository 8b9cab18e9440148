"""Hashes each local shard at its first use, and remembers which ones have been hashed.

The record of a verified shard is an empty file in the folder `verified` of the user's cache. Its name is a hash of the
shard's sha256 and of the file's device, inode, size and times of the last changes. A record can therefore not be
damaged, a changed file has none, and processes need no lock: two that open a shard at the same time may both hash it.
"""

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from ..address import Location
from ..errors import ShardError, reading
from ..files import open_regular
from ..format.manifest import Shard
from .cache import PRIVATE, default_folder

Verify = Literal["first-use", "never"]
"""When the sha256 of a local shard is compared with the manifest."""

SETTLED_NS = 2_000_000_000
"""Age in ns from which a file is recorded: the times of a younger one may not show a further change."""


class Verified:
    """The local shards that this process has compared with the manifest. Can be pickled."""

    def __init__(self) -> None:
        self._good: dict[str, bool] = {}

    def check(self, file: Path, shard: Shard, *, rehash: bool = False) -> None:
        """Compare a shard with size and sha256 of the manifest, unless that was done before and it has not changed.

        Args:
            file: the shard.
            shard: entry of the manifest.
            rehash: whether to compare it even if that was done before.

        Raises:
            ShardError: the file cannot be read, or its size or sha256 differs.
        """
        with reading(file, "tar"), open(open_regular(file), "rb") as opened:
            about = os.fstat(opened.fileno())
            check_size(file, about.st_size, shard.bytes)
            name = _record_name(about, shard)
            if rehash or not self._is_known(name):
                self._good[name] = hashlib.file_digest(opened, "sha256").hexdigest() == shard.sha256
                if self._good[name] and os.fstat(opened.fileno()).st_ctime_ns < time.time_ns() - SETTLED_NS:
                    _note(name)
        if not self._good[name]:
            problem = "its sha256 differs from the manifest's, so its contents changed: copy or make it again"
            raise ShardError(f"{file}: {problem}", "tar")

    def _is_known(self, name: str) -> bool:
        if name not in self._good and (_folder() / name).exists():
            self._good[name] = True
        return name in self._good


def _record_name(about: os.stat_result, shard: Shard) -> str:
    identity = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns, shard.sha256)
    return hashlib.sha256(repr(identity).encode()).hexdigest()


def _note(name: str) -> None:
    # Without a writable cache, each process hashes the shards that it opens.
    with suppress(OSError):
        _folder().mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        (_folder() / name).touch()


def _folder() -> Path:
    return default_folder() / "verified"


def check_size(path: Location, found: int, stated: int) -> None:
    """Compare a tar's size with the manifest's.

    Raises:
        ShardError: the sizes differ.
    """
    if found != stated:
        problem = f"{path}: has {found} bytes, the manifest states {stated}: the copy is incomplete or has changed"
        raise ShardError(problem, "tar")
