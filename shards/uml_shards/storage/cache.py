"""The cache of remote shards: a folder of complete, checked files that the processes of a node share.

Each file has these entries:

    <sha256 of the URL>-<sha256 of the content>         the file, renamed to this name only after its check
    <the same>.ok                                       the record of the check; its mtime is the time of the last use
    <the same>.part                                     the file during the download, already at its final size
    locks/<the same>.lock                               held while the file is fetched, opened or removed

The digest of the content is taken from the manifest. If a split changes on the server, outdated files are therefore
never used, and two splits never share a file just because of its name.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ..address import Address
from ..errors import ShardError
from ..tally import count
from .download import Content, download

PRIVATE = 0o700
"""Mode of the cache folder: other users can neither read nor replace the images."""


@dataclass(frozen=True)
class Cache:
    """A cache for remote shards. The folder is created when the first file is fetched.

    Attributes:
        folder: folder of the cache; by default uml_shards in $XDG_CACHE_HOME, or in ~/.cache.
        gigabytes: size limit in units of 1e9 bytes; the least recently used files are removed. None: no limit.
    """

    folder: str | Path | None = None
    gigabytes: float | None = None

    @contextmanager
    def file(self, address: Address, content: Content, *, rehash: bool = False) -> Iterator[Path]:
        """Provide a remote file from the cache, fetching it if necessary. It is not removed inside the `with` block.

        Args:
            address: URL of the file.
            content: expected content; the digest is required.
            rehash: whether to hash a cached file again; otherwise its size and the record of an earlier check suffice.

        Raises:
            ShardError: the file cannot be fetched or is damaged, or the cache folder cannot be written.
        """
        folder = self._made_folder()
        name = f"{hashlib.sha256(str(address).encode()).hexdigest()}-{content.sha256}"
        path = folder / name
        with ExitStack() as held:
            try:
                held.enter_context(_lock(folder, name))
                if _is_good(path, content, rehash):
                    count("cache_hits")
                else:
                    count("cache_misses")
                    _remove(path)
                    self._fetch(address, content, path)
                now = time.time_ns()  # finer than the timestamps set by the system
                os.utime(_record(path), ns=(now, now))
            except OSError as error:
                raise ShardError(
                    f"cache folder {folder} cannot be used: {error.strerror}: free disk space, limit the cache or "
                    "choose another folder"
                ) from None
            yield path

    @property
    def place(self) -> Path:
        """The folder, which may not exist yet."""
        return Path(self.folder) if self.folder else default_folder()

    def _made_folder(self) -> Path:
        folder = self.place
        try:
            folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
            (folder / "locks").mkdir(mode=PRIVATE, exist_ok=True)
        except OSError as error:
            raise ShardError(f"cache folder {folder} cannot be created: {error.strerror}: choose another") from None
        return folder

    def _fetch(self, address: Address, content: Content, path: Path) -> None:
        part = path.with_name(f"{path.name}.part")
        try:
            self._make_room(address, content.limit, part)
            with part.open("r+b") as file:
                download(address, file, content)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        _note_check(path)

    def _make_room(self, address: Address, size: int, part: Path) -> None:
        """Remove the least recently used files, and reserve the space with a sparse file under the same lock."""
        limit = None if self.gigabytes is None else int(self.gigabytes * 1e9)
        if limit is not None and size > limit:
            raise ShardError(f"{address} has {size} bytes, but the cache is limited to {limit}: allow more gigabytes")
        with _lock(part.parent, "room"):
            if limit is not None:
                _shrink(part.parent, limit - size)
            with part.open("wb") as file:
                file.truncate(size)


def default_folder() -> Path:
    """Return the default folder of the cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "uml_shards"


def _shrink(folder: Path, limit: int) -> None:
    """Remove the least recently used files until the rest fits. Files that are being fetched or opened are kept."""
    found: list[tuple[bool, int, int, Path]] = []
    for path in folder.iterdir():
        try:
            if path.is_file() and path.suffix != ".ok":
                record = _record(path)
                used = (record if record.exists() else path).stat().st_mtime_ns
                found.append((path.suffix != ".part", used, path.stat().st_size, path))
        except FileNotFoundError:
            continue  # another process has just finished or removed it
    total = sum(size for _, _, size, _ in found)
    for _, _, size, path in sorted(found):
        if total <= limit:
            return
        lock = _lock(folder, path.name.removesuffix(".part"))
        try:
            with lock.acquire(blocking=False):
                _remove(path)
                total -= size
        except Timeout:
            continue


def _is_good(path: Path, content: Content, rehash: bool) -> bool:
    """Whether a file exists and has the expected content. Without `rehash`, a valid record suffices."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return False
    if content.size not in (None, about.st_size):
        return False
    record = _record(path)
    # The record contains the file's mtime, so a file that was modified later is not trusted.
    if not rehash and record.is_file() and record.read_bytes() == str(about.st_mtime_ns).encode():
        return True
    with path.open("rb") as file:
        good = hashlib.file_digest(file, "sha256").hexdigest() == content.sha256
    if good:
        _note_check(path)
    return good


def _note_check(path: Path) -> None:
    _record(path).write_text(str(path.stat().st_mtime_ns))


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.ok")


def _remove(path: Path) -> None:
    """Remove a file and its record. Processes that have it open can continue to read."""
    _record(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _lock(folder: Path, name: str) -> FileLock:
    """Return an inter-process lock, which the system releases when its holder dies."""
    return FileLock(folder / "locks" / f"{name}.lock")
