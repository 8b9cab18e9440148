"""Checks shared memory: its free space, and files that dead runs left in it."""

import os
import re
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from ..launch.resources import SHARED_MEMORY, Space
from .finding import Finding, note, ok, problem

FOLDER, PROCESSES = SHARED_MEMORY, Path("/proc")
OURS = ("torch_*", "psm_*", "sem.*", "gloo*", "nccl-*", "deepspeed*")
"""Names of files created by torch, Python's multiprocessing, gloo, NCCL and DeepSpeed."""
ENOUGH = 2**30  # bytes; the readers of one rank hold a few batches
YOUNG = 60.0  # seconds; a process may not have mapped a newer file yet
SHOWN = 6  # file names in a message


def check_space(space: Space | None, gpus: int, folder: Path = FOLDER) -> Finding:
    """Check whether readers have enough space. CPU processes use no readers by default, so it is a note for them.

    Args:
        space: size of shared memory.
        gpus: number of GPUs that training would use.
        folder: folder of shared memory.
    """
    if space is None:
        return note("shared memory", f"there is no {folder} here", "if readers fail, set data.workers=0")
    message = f"{_size(space.free)} of {_size(space.total)} in {folder} are free"
    if space.free >= ENOUGH:
        return ok("shared memory", message)
    larger = (
        "start the container with --shm-size=8g or --ipc=host" if space.total < ENOUGH else f"free space in {folder}"
    )
    remedy = f"{larger}, or set data.workers=0"
    if gpus:
        return problem("shared memory", f"{message}: readers need {_size(ENOUGH)} when training on GPUs", remedy)
    return note("shared memory", f"{message}: readers (data.workers) may fail with a bus error", remedy)


def find_leftovers(
    folder: Path = FOLDER, processes: Path = PROCESSES, now: float | None = None, patterns: Sequence[str] = OURS
) -> dict[Path, int]:
    """Find this user's files in shared memory that match the patterns and that no process has mapped or open.

    Args:
        folder: folder of shared memory.
        processes: the folder /proc.
        now: seconds since the epoch; files younger than a minute are left out.
        patterns: patterns of file names.

    Returns:
        Bytes by path.
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
    """Report the files that dead runs left; they are listed but never removed."""
    if not files:
        return ok("left in memory", "no files of dead runs in shared memory")
    names = [shlex.quote(str(path)) for path in files]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    counted = "1 file" if len(files) == 1 else f"{len(files)} files"
    message = f"{counted} of yours, {_size(sum(files.values()))}, which no visible process has mapped or open"
    remedy = f"if no other container of yours uses them: rm {' '.join(names[:SHOWN])}{more}"
    return note("left in memory", message, remedy)


def _used_files(folder: Path, processes: Path) -> set[str]:
    """Return the paths in the folder that a process of this user has mapped or open."""
    used: set[str] = set()
    mapped = re.compile(rf"\s({re.escape(str(folder))}/.*)$", re.MULTILINE)
    for process in processes.iterdir():
        if not process.name.isdecimal():
            continue
        try:
            used.update(mapped.findall((process / "maps").read_text(errors="replace")))
            used.update(os.readlink(link) for link in (process / "fd").iterdir())
        except OSError:
            continue  # the process has ended, or belongs to another user
    return used


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
