"""Which process has written a file, and whether it still runs: files of killed runs are removed, those of others kept.

A process is identified without the clock, which may be set: by the machine's current start, the process id there, and
the time at which the process began, counted from the start of the machine.
"""

import hashlib
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import psutil

from uml_shards.durable import TEMPORARY

LEASE_SECONDS = 600.0
"""A file of another machine is stale when its process has not touched it for this long."""

TOUCH_SECONDS = 30.0
"""Time between two touches of a file that is not written more often anyway."""


@dataclass(frozen=True)
class Process:
    """A process that writes files.

    Attributes:
        host: name of its machine.
        machine: what distinguishes its machine, and each start of it, from others; a container counts as a machine.
        number: its process id.
        began: when it began, by the machine's count.
    """

    host: str
    machine: str
    number: int
    began: str

    @classmethod
    def current(cls) -> Self:
        """Return this process."""
        number = os.getpid()
        return cls(socket.gethostname(), _machine(), number, _began(number) or "")

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Self | None:
        """Return the process of a record that `record` made; None if it is not one."""
        try:
            host, machine, began = (str(record[name]) for name in ("host", "machine", "began"))
            return cls(host, machine, int(record["number"]), began)
        except (KeyError, TypeError, ValueError):
            return None

    def record(self) -> dict[str, str]:
        """Return the process as texts by name."""
        return {name: str(value) for name, value in asdict(self).items()}

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this machine, so that `runs` can tell."""
        return self.machine == _machine()

    @property
    def runs(self) -> bool:
        """Whether a process of this machine still runs; a zombie does not."""
        return _began(self.number) == self.began


def file_name(run: str, key: str, suffix: str) -> str:
    """Return a file name that any run name can be a part of, and that is different for each key.

    Args:
        run: name of the run, of which letters, digits, points, - and _ are kept.
        key: distinguishes runs of the same name.
        suffix: end of the name.
    """
    kept = re.sub(r"[^A-Za-z0-9._-]+", "_", run).lstrip(".")[:60]
    digest = hashlib.sha256(key.encode(errors="backslashreplace")).hexdigest()[:12]
    return f"{kept or 'run'}-{digest}{suffix}"


def written_files(
    folder: Path, suffix: str, writer_of: Callable[[Path], Process | None]
) -> Iterator[tuple[Path, bool]]:
    """Yield the files with names of `file_name`, each with whether the process that wrote it has left it.

    A process of this machine has left its files when it has ended; one of another machine, which touches its files
    every `TOUCH_SECONDS`, when it has not done so for `LEASE_SECONDS`. Unfinished files are left after that time, files
    of other users never.

    Args:
        folder: the folder, which may be missing.
        suffix: end of the names.
        writer_of: returns the process that wrote a file; None if the file is not one of ours.
    """
    end = re.escape(suffix)
    names = re.compile(rf".+-[0-9a-f]{{12}}{end}|\..+-[0-9a-f]{{12}}{end}\.[0-9a-f]+{re.escape(TEMPORARY)}")
    try:
        paths = sorted(path for path in folder.iterdir() if names.fullmatch(path.name))
    except OSError:
        return
    now = None
    for path in paths:
        try:
            written = path.stat()
            unfinished = path.suffix == TEMPORARY
            writer = None if unfinished else writer_of(path)
            if writer is None and not unfinished:
                continue
            if written.st_uid != os.getuid():  # whose processes may be hidden from this one
                yield path, False
                continue
            if writer is not None and writer.is_here:
                yield path, not writer.runs
                continue
            now = _file_system_time(folder) if now is None else now
            yield path, now - written.st_mtime > LEASE_SECONDS
        except OSError:  # it has just been removed
            continue


def _file_system_time(folder: Path) -> float:
    """Return the time by the clock that dates the files of a folder, which may be that of a server."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=TEMPORARY) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def _machine() -> str:
    """Return what distinguishes a machine since its start, and a container on it, from others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except (OSError, ValueError):
        return socket.gethostname()


def _began(number: int) -> str | None:
    """Return when a process began; None if there is none, or only its exit code is left."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else fields[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except (OSError, IndexError):
        return None
    try:  # a system without /proc, such as macOS
        process = psutil.Process(number)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.Error:
        return None
