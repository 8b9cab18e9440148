"""Shared memory: how much there is, and what dead runs have left in it."""

import os
import re
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .finding import Finding, note, ok, problem

FOLDER, PROCESSES = Path("/dev/shm"), Path("/proc")
OURS = ("torch_*", "psm_*", "sem.*", "gloo*", "nccl-*", "deepspeed*")
"""Names that torch, Python's multiprocessing, gloo, NCCL and DeepSpeed give."""
ENOUGH = 2**30  # bytes: readers of one rank hold a few batches
YOUNG = 60.0  # seconds in which a process may not have mapped its new file yet
SHOWN = 6  # names in one line


@dataclass(frozen=True)
class Space:
    """Bytes of a file system."""

    total: int
    free: int


def read_space(folder: Path = FOLDER) -> Space | None:
    """The size of shared memory; None where the system has no such folder."""
    if not folder.is_dir():
        return None
    usage = shutil.disk_usage(folder)
    return Space(usage.total, usage.free)


def check_space(space: Space | None, gpus: int, folder: Path = FOLDER) -> Finding:
    """Whether readers have room. CPU processes read without any by default, so there it is a note.

    Args:
        space: of shared memory.
        gpus: on which training is meant to run.
        folder: of shared memory.
    """
    if space is None:
        return note("shared memory", f"there is no {folder} here", "data.workers=0, should readers fail")
    says = f"{_size(space.free)} of {_size(space.total)} in {folder} are free"
    if space.free >= ENOUGH:
        return ok("shared memory", says)
    larger = (
        "start the container with --shm-size=8g or --ipc=host" if space.total < ENOUGH else f"make room in {folder}"
    )
    todo = f"{larger}, or set data.workers=0"
    if gpus:
        return problem("shared memory", f"{says}: readers beside GPUs need {_size(ENOUGH)}", todo)
    return note("shared memory", f"{says}: readers (data.workers) may fail with a bus error", todo)


def find_leftovers(
    folder: Path = FOLDER, processes: Path = PROCESSES, now: float | None = None, patterns: Sequence[str] = OURS
) -> dict[Path, int]:
    """Files of this user in shared memory, with such names, that no process has mapped or open: bytes by path.

    Args:
        folder: of shared memory.
        processes: a /proc.
        now: seconds since the epoch; files younger than a minute are left out.
        patterns: of names.
    """
    now = time.time() if now is None else now
    files: dict[Path, int] = {}
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        if path.is_file() and not path.is_symlink() and status.st_uid == os.getuid() and now - status.st_mtime > YOUNG:
            files[path] = status.st_blocks * 512
    if not files:
        return {}
    used = _used_files(folder, processes)
    return {path: size for path, size in files.items() if str(path) not in used}


def check_leftovers(files: dict[Path, int]) -> Finding:
    """What dead runs have left: named, never removed by us."""
    if not files:
        return ok("left in memory", "no file of a dead run is in shared memory")
    names = [shlex.quote(str(path)) for path in files]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    counted = "1 file" if len(files) == 1 else f"{len(files)} files"
    says = f"{counted} of yours, {_size(sum(files.values()))}, which no process seen from here has mapped or open"
    todo = f"if no other container of yours uses them: rm {' '.join(names[:SHOWN])}{more}"
    return note("left in memory", says, todo)


def _used_files(folder: Path, processes: Path) -> set[str]:
    """Paths below the folder that a process has mapped or open. Other users' processes cannot be read, nor need be."""
    used: set[str] = set()
    mapped = re.compile(rf"\s({re.escape(str(folder))}/.*)$", re.MULTILINE)
    for process in processes.iterdir():
        if not process.name.isdecimal():
            continue
        try:
            used.update(mapped.findall((process / "maps").read_text(errors="replace")))
            used.update(os.readlink(link) for link in (process / "fd").iterdir())
        except OSError:
            continue  # it has ended, or is another user's
    return used


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
