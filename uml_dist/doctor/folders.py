"""Disks and folders: room, and whether they can be written."""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from .finding import Finding, note, ok, problem

FEW, MANY = 1e9, 10e9
"""Free bytes below which a disk is a problem, and a note. A checkpoint of the paper's profile has 0.5 GB."""


def free_bytes(folder: Path) -> int:
    """What a user may still write on the disk of a folder."""
    return shutil.disk_usage(folder).free


def nearest(folder: Path) -> Path:
    """The folder, or the one above it that is there already and in which it would be made."""
    folder = folder.absolute()
    # A link that leads nowhere is there: no folder can be made in its place.
    return next(path for path in (folder, *folder.parents) if os.path.lexists(path))


def check_disk(name: str, folder: Path, free: Callable[[Path], int] = free_bytes) -> Finding:
    """The room where a folder lies or would lie.

    Args:
        name: what the folder is for.
        folder: it need not exist.
        free: bytes that may be written on the disk of a folder.
    """
    name = f"disk of {name}"
    left = free(nearest(folder))
    says = f"{left / 1e9:.1f} GB free at {folder}"
    if left < FEW:
        return problem(name, f"{says}: less than {FEW / 1e9:.0f} GB", "make room, or choose a folder on another disk")
    if left < MANY:
        return note(name, f"{says}: little for checkpoints or shards", "make room, or choose a folder on another disk")
    return ok(name, says)


def write_file(folder: Path) -> None:
    """Write a temporary file into a folder, down to the disk, and remove it.

    Raises:
        OSError: it cannot be done.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
        file.write(bytes(4096))
        file.flush()
        os.fsync(file.fileno())


def lock_file(folder: Path) -> None:
    """Lock a temporary file in a folder, as processes do that share it.

    Raises:
        OSError: the file system has no locks, or is not mounted with them.
    """
    import fcntl

    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_run_folder(folder: Path, write: Callable[[Path], None] = write_file) -> Finding:
    """Whether a run can be written there: a file is really written, and removed."""
    place = nearest(folder)
    if not place.is_dir():
        return problem("run folder", f"{place} is no folder", "fix or remove it, or choose another folder: --run")
    try:
        write(place)
    except OSError as error:
        todo = "fix its owner or mode, or choose another folder: --run"
        return problem("run folder", f"{place} cannot be written: {error.strerror or error}", todo)
    made = "" if place == folder.absolute() else f", in which {folder} will be made"
    return ok("run folder", f"{place} can be written{made}")


def check_cache(
    folder: Path, write: Callable[[Path], None] = write_file, lock: Callable[[Path], None] = lock_file
) -> Finding:
    """Whether shards behind URLs can be kept: other training does not need it, so it is never a problem.

    Args:
        folder: of the cache; it need not exist.
        write: writes a file into a folder.
        lock: locks a file in a folder.
    """
    place = nearest(folder)
    todo = "set data.cache, should you read shards from URLs"
    if not place.is_dir():
        return note("shard cache", f"{place} is no folder", todo)
    try:
        write(place)
    except OSError as error:
        return note("shard cache", f"{place} cannot be written: {error.strerror or error}", todo)
    try:
        lock(place)
    except OSError as error:
        return note("shard cache", f"files in {place} cannot be locked: {error.strerror or error}", todo)
    return ok("shard cache", f"{folder} can be written and locked")


def cache_folder() -> Path:
    """Where shards from URLs are kept unless data.cache says otherwise."""
    from uml_shards.storage.cache import default_folder

    return default_folder()


def kernel_cache(environment: Mapping[str, str]) -> Path:
    """Where Triton keeps compiled kernels."""
    chosen = environment.get("TRITON_CACHE_DIR")
    return Path(chosen) if chosen else Path(environment.get("TRITON_HOME") or Path.home()) / ".triton" / "cache"


def check_kernel_cache(gpus: int, folder: Path, write: Callable[[Path], None] = write_file) -> Finding:
    """Whether Triton can keep kernels: it fails beside a GPU where it cannot."""
    place = nearest(folder)
    try:
        write(place)
    except OSError as error:
        says = f"{place} cannot be written: {error.strerror or error}"
        todo = "set TRITON_CACHE_DIR to a folder that you can write"
        return problem("kernel cache", says, todo) if gpus else note("kernel cache", f"{says}; GPUs need it", todo)
    return ok("kernel cache", f"{folder} can be written")
