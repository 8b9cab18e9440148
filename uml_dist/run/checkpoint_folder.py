"""The folder of a run's checkpoints: their names, the pointers to them, and what a killed writer leaves.

    checkpoints/step-001200         a whole checkpoint
                .step-001200.tmp    one that is being written or removed: never read
                .step-001200.old    one that is being overwritten: read while its own name is free
                latest, best        the name of one; best-NAME for further validations

A name in a pointer is never trusted to be more than that: it leads to no other folder.
"""

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from uml_shards.durable import replace_text

from ..errors import UmlError

NAME = re.compile(r"step-[0-9]{6,}")

USE_ANOTHER = ": use another checkpoint"
"""What to do about a damaged one, at the end of its error."""


class DamagedError(UmlError):
    """A checkpoint, or a pointer to one, is not what was written."""


def folder_name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:06d}"


def name_of(path: Path) -> str:
    """The name of a checkpoint, also while it is set aside."""
    return path.name.removeprefix(".").removesuffix(".old")


def step_of(path: Path) -> int:
    """The step of a checkpoint."""
    return int(name_of(path).removeprefix("step-"))


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a folder, whole or damaged, oldest first."""
    found = [path for path in (*folder.glob("step-*"), *_aside(folder)) if path.is_dir()]
    names = {name for path in found if NAME.fullmatch(name := name_of(path))}
    return sorted((place_of(folder, name) for name in names), key=step_of)


def place_of(folder: Path, name: str) -> Path:
    """Where a checkpoint lies: under its name, or aside where a writer was killed that was about to overwrite it."""
    aside = folder / f".{name}.old"
    return aside if aside.is_dir() and not (folder / name).exists() else folder / name


def point(pointer: Path, name: str) -> None:
    """Let a pointer file name a checkpoint, atomically.

    Raises:
        OSError: it cannot be written.
    """
    replace_text(pointer, name + "\n")


def read_pointer(pointer: Path) -> str:
    """The name in a pointer file.

    Raises:
        DamagedError: it is none of a checkpoint of that folder.
    """
    try:
        name = pointer.read_bytes().decode("utf-8", "replace").strip()
    except OSError as error:
        raise DamagedError(f"pointer {pointer} cannot be read: {error.strerror}{USE_ANOTHER}") from None
    if not NAME.fullmatch(name):
        raise DamagedError(f"pointer {pointer} names no checkpoint of its folder{USE_ANOTHER}")
    return name


def find_checkpoint(path: Path, pointer: str = "latest") -> Path | None:
    """The checkpoint that a path means: itself, or what `latest` (or `best`) names in a run or `checkpoints` folder.

    Raises:
        DamagedError: the pointer names none.
    """
    for folder in (path / "checkpoints", path):
        if (folder / pointer).is_file():
            return place_of(folder, read_pointer(folder / pointer))
    return path if (path / "state.json").is_file() else None


def tidy(folder: Path) -> None:
    """Give back their names to checkpoints that a killed writer had set aside, and remove what it had not finished."""
    for aside in _aside(folder):
        final = folder / name_of(aside)
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(final)
    for unfinished in folder.glob(".step-*.tmp"):
        shutil.rmtree(unfinished, ignore_errors=True)


def prune(folder: Path, keep: int, counts: Callable[[Path], bool] | None = None) -> dict[str, int]:
    """Remove all checkpoints that are older than the newest few, but for those that a pointer names.

    Args:
        folder: of the checkpoints.
        keep: how many, the newest.
        counts: whether a checkpoint is one of them; one that does not count is kept if it is newer. By default those do
            not count that are newer than `latest`: of a run that has gone back to an older checkpoint.

    Returns:
        The bytes of each that is removed, by name.
    """
    named = named_by(folder)
    removed = {}
    for path in reversed(checkpoints_in(folder)):
        if keep:
            newer = "latest" in named and step_of(path) > step_of(folder / named["latest"])
            keep -= counts(path) if counts else not newer
        elif path.name == name_of(path) not in named.values():  # one that is set aside is in the hands of a writer
            with suppress(FileNotFoundError):  # another process has just removed it
                removed[path.name] = size_of(path)
                _remove(path)
    return removed


def size_of(checkpoint: Path) -> int:
    """The bytes of its files."""
    return sum(file.stat().st_size for file in checkpoint.iterdir())


def pointers_in(folder: Path) -> list[str]:
    """Return the names of the pointers of a folder: `latest`, `best`, and `best-NAME` of further validations."""
    return [name for name in ("latest", "best") if (folder / name).exists()] + sorted(
        path.name for path in folder.glob("best-*") if path.is_file()
    )


def named_by(folder: Path) -> dict[str, str]:
    """Return the checkpoint that each pointer names, of those that can be read."""
    found = {}
    for pointer in pointers_in(folder):
        try:
            found[pointer] = read_pointer(folder / pointer)
        except DamagedError:
            continue
    return found


def _aside(folder: Path) -> list[Path]:
    return list(folder.glob(".step-*.old"))


def _remove(path: Path) -> None:
    """Remove a checkpoint; a kill in the middle leaves none that looks damaged."""
    doomed = path.with_name(f".{path.name}.tmp")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
