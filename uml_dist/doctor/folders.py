"""Checks disks and folders: free space and write access."""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from .finding import Finding, note, ok, problem

FEW, MANY = 1e9, 10e9
"""Free bytes below which a disk is a problem or a note. A checkpoint of the paper's profile takes 0.5 GB."""


def free_bytes(folder: Path) -> int:
    """Return the bytes that a user can still write to the disk of a folder."""
    return shutil.disk_usage(folder).free


def nearest_existing(folder: Path) -> Path:
    """Return the folder, or its closest existing parent, in which it would be created."""
    folder = folder.absolute()
    # A dangling link counts as existing: no folder can be created in its place.
    return next(path for path in (folder, *folder.parents) if os.path.lexists(path))


def check_disk(name: str, folder: Path, free: Callable[[Path], int] = free_bytes) -> Finding:
    """Check the free space on the disk of a folder.

    Args:
        name: purpose of the folder.
        folder: the folder, which does not have to exist.
        free: returns the bytes that can be written to the disk of a folder.
    """
    name = f"disk of {name}"
    left = free(nearest_existing(folder))
    message = f"{left / 1e9:.1f} GB free at {folder}"
    remedy = "free some space, or choose a folder on another disk"
    if left < FEW:
        return problem(name, f"{message}: less than {FEW / 1e9:.0f} GB", remedy)
    if left < MANY:
        return note(name, f"{message}: may not suffice for checkpoints or shards", remedy)
    return ok(name, message)


def write_file(folder: Path) -> None:
    """Write a temporary file to a folder, sync it to the disk, and remove it.

    Raises:
        OSError: the file cannot be written.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
        file.write(bytes(4096))
        file.flush()
        os.fsync(file.fileno())


def lock_file(folder: Path) -> None:
    """Lock a temporary file in a folder, as processes do that share the folder.

    Raises:
        OSError: the file system does not support locks, or is mounted without them.
    """
    import fcntl

    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_run_folder(folder: Path, write: Callable[[Path], None] = write_file) -> Finding:
    """Check whether a run can be written to a folder, by writing and removing a file."""
    place = nearest_existing(folder)
    if not place.is_dir():
        return problem("run folder", f"{place} is not a folder", "fix or remove it, or choose another folder: --run")
    try:
        write(place)
    except OSError as error:
        remedy = "fix its owner or mode, or choose another folder: --run"
        return problem("run folder", f"{place} cannot be written: {error.strerror or error}", remedy)
    created = "" if place == folder.absolute() else f"; {folder} will be created in it"
    return ok("run folder", f"{place} can be written{created}")


def check_cache(
    folder: Path, write: Callable[[Path], None] = write_file, lock: Callable[[Path], None] = lock_file
) -> Finding:
    """Check the cache of shards from URLs. Training on local shards does not need it, so it is never a problem.

    Args:
        folder: the cache folder, which does not have to exist.
        write: writes a file to a folder.
        lock: locks a file in a folder.
    """
    place = nearest_existing(folder)
    remedy = "if you read shards from URLs, set data.cache"
    if not place.is_dir():
        return note("shard cache", f"{place} is not a folder", remedy)
    try:
        write(place)
    except OSError as error:
        return note("shard cache", f"{place} cannot be written: {error.strerror or error}", remedy)
    try:
        lock(place)
    except OSError as error:
        return note("shard cache", f"files in {place} cannot be locked: {error.strerror or error}", remedy)
    return ok("shard cache", f"{folder} can be written and locked")


def cache_folder() -> Path:
    """Return the default cache folder for shards from URLs, used unless data.cache is set."""
    from uml_shards.storage.cache import default_folder

    return default_folder()


def kernel_cache(environment: Mapping[str, str]) -> Path:
    """Return the folder in which Triton caches compiled kernels."""
    chosen = environment.get("TRITON_CACHE_DIR")
    return Path(chosen) if chosen else Path(environment.get("TRITON_HOME") or Path.home()) / ".triton" / "cache"


def check_kernel_cache(gpus: int, folder: Path, write: Callable[[Path], None] = write_file) -> Finding:
    """Check Triton's kernel cache; with a GPU, Triton fails if it cannot write there."""
    place = nearest_existing(folder)
    try:
        write(place)
    except OSError as error:
        message = f"{place} cannot be written: {error.strerror or error}"
        remedy = "set TRITON_CACHE_DIR to a writable folder"
        if gpus:
            return problem("kernel cache", message, remedy)
        return note("kernel cache", f"{message}; only needed with a GPU", remedy)
    return ok("kernel cache", f"{folder} can be written")
