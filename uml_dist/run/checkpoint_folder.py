"""The folder of a run's checkpoints: names, pointers, and the remains of a killed writer.

    checkpoints/step-001200         a complete checkpoint
                .step-001200.tmp    a checkpoint that is being written or removed: never read
                .latest.*.tmp   a pointer that is being written
                .step-001200.old    a checkpoint that is being overwritten: read as long as its own name is free
                latest, best        the name of a checkpoint; best-NAME for further validations

Pointers contain a name only, so they cannot lead out of the folder.
"""

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from uml_shards.durable import TEMPORARY, replace_text

from ..errors import UmlError

NAME = re.compile(r"step-[0-9]{6,18}")

USE_ANOTHER = ": use another checkpoint"
"""The remedy at the end of an error about a damaged checkpoint."""


class DamagedError(UmlError):
    """A checkpoint, or a pointer to one, is damaged."""


def folder_name(step: int) -> str:
    """Return the folder name of a step's checkpoint."""
    return f"step-{step:06d}"


def name_of(path: Path) -> str:
    """Return the name of a checkpoint, also of one that is set aside."""
    return path.name.removeprefix(".").removesuffix(".old")


def step_of(path: Path) -> int:
    """Return the step of a checkpoint."""
    return int(name_of(path).removeprefix("step-"))


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, valid or damaged, oldest first."""
    found = [path for path in (*folder.glob("step-*"), *_aside(folder)) if path.is_dir()]
    names = {name for path in found if NAME.fullmatch(name := name_of(path))}
    return sorted((place_of(folder, name) for name in names), key=step_of)


def place_of(folder: Path, name: str) -> Path:
    """Return the path of a checkpoint: its name, or the name it was set aside under when its overwriting was killed."""
    aside = folder / f".{name}.old"
    return aside if aside.is_dir() and not (folder / name).exists() else folder / name


def point(pointer: Path, name: str) -> None:
    """Point a pointer file to a checkpoint, atomically.

    Raises:
        OSError: it cannot be written.
    """
    replace_text(pointer, name + "\n")


def read_pointer(pointer: Path) -> str:
    """Return the name in a pointer file.

    Raises:
        DamagedError: it cannot be read, or is not the name of a checkpoint.
    """
    if pointer.exists() and not pointer.is_file():  # a pipe, for example, would be waited for
        raise DamagedError(f"pointer {pointer} is not a file{USE_ANOTHER}")
    try:
        with pointer.open("rb") as stream:
            name = stream.read(100).decode("utf-8", "replace").strip()
    except OSError as error:
        raise DamagedError(f"pointer {pointer} cannot be read: {error.strerror}{USE_ANOTHER}") from None
    if not NAME.fullmatch(name):
        raise DamagedError(f"pointer {pointer} does not name a checkpoint{USE_ANOTHER}")
    return name


def find_checkpoint(path: Path, pointer: str = "latest") -> Path | None:
    """Return the checkpoint at a path, or the one to which a pointer in a run or `checkpoints` folder points.

    Raises:
        DamagedError: the pointer does not name a checkpoint.
    """
    for folder in (path / "checkpoints", path):
        if (folder / pointer).is_file():
            return place_of(folder, read_pointer(folder / pointer))
    return path if (path / "state.json").is_file() else None


def tidy(folder: Path) -> None:
    """Restore the names of checkpoints that a killed writer had set aside, and remove unfinished ones."""
    for aside in _aside(folder):
        final = folder / name_of(aside)
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(final)
    for unfinished in folder.glob(f".*{TEMPORARY}"):
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)


def prune(folder: Path, keep: int, counts: Callable[[Path], bool] | None = None) -> dict[str, int]:
    """Remove all checkpoints except the newest few and those that a pointer names.

    Args:
        folder: folder of the checkpoints.
        keep: number of newest checkpoints to keep.
        counts: whether a checkpoint counts as one of them; a newer one that does not count is kept too. By default,
            checkpoints newer than `latest` do not count: they belong to a run that went back to an older checkpoint.

    Returns:
        The bytes of each removed checkpoint, by name.
    """
    named = named_by(folder)
    removed = {}
    for path in reversed(checkpoints_in(folder)):
        if keep:
            newer = "latest" in named and step_of(path) > step_of(folder / named["latest"])
            keep -= counts(path) if counts else not newer
        elif path.name == name_of(path) not in named.values():  # a checkpoint that is set aside belongs to a writer
            with suppress(FileNotFoundError):  # another process has just removed it
                removed[path.name] = size_of(path)
                _remove(path)
    return removed


def size_of(checkpoint: Path) -> int:
    """Return the size of a checkpoint in bytes."""
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
    """Remove a checkpoint; if this is killed, no damaged checkpoint is left."""
    doomed = path.with_name(f".{path.name}.tmp")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
