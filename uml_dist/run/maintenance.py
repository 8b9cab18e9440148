"""Verifies, prunes and reshards the checkpoints of a run, for `launchers/checkpoint.py`."""

import shlex
from math import gcd
from pathlib import Path

from ..config.schema import RunConfig
from ..errors import UmlError
from .checkpoint import latest_valid, read_state, verify
from .checkpoint_folder import (
    DamagedError,
    checkpoints_in,
    name_of,
    named_by,
    pointers_in,
    prune,
    read_pointer,
    size_of,
)
from .owner import owned
from .reader import RunReader


def check_run(run: Path) -> tuple[list[str], list[str]]:
    """Verify every checkpoint of a run.

    Returns:
        A line for each checkpoint, and the problems: damaged checkpoints, and pointers to missing ones.

    Raises:
        UmlError: the folder contains no run, or no checkpoint.
    """
    folder = RunReader(run).checkpoints()
    names = named_by(folder)
    lines, problems = [], []
    for path in checkpoints_in(folder):
        wrong = _damage(path)
        marks = [pointer for pointer, name in names.items() if name == name_of(path)]
        verdict = "damaged" if wrong else "ok"
        lines.append(f"{name_of(path)}  {verdict:<7}  {size_of(path) / 1e6:10,.1f} MB  {' '.join(marks)}".rstrip())
        problems += [wrong] if wrong else []
    for pointer in dict.fromkeys(["latest", *pointers_in(folder)]):
        problems += _wrong_pointer(folder, pointer)
    return lines, problems


def prune_run(run: Path, keep: int) -> dict[str, int]:
    """Remove all checkpoints except the newest few valid ones and those that a pointer names.

    Returns:
        The bytes of each removed checkpoint, by name.

    Raises:
        UmlError: the folder contains no run or no checkpoint, a training owns it, `keep` is below 1, or files cannot be
            removed.
    """
    if keep < 1:
        raise UmlError(f"--keep {keep}: at least 1 is kept")
    folder = RunReader(run).checkpoints()
    try:
        with owned(run):
            return prune(folder, keep, lambda path: _damage(path) is None)
    except OSError as error:
        raise UmlError(f"checkpoints of {run} cannot be removed: {error}") from None


def reshard_run(run: Path, ranks: int, stage: int | None) -> list[str]:
    """Describe how to resume a run on another number of ranks or at another ZeRO stage.

    Returns:
        Lines for the user; the last one is the command.

    Raises:
        UmlError: the folder contains no run or no valid checkpoint, or the ranks do not divide the samples of a step.
    """
    reader = RunReader(run)
    folder, config = reader.checkpoints(), reader.config()
    valid = valid_ranks(config)
    if ranks not in valid:
        counts = ", ".join(f"streams.{name}.count = {stream.count}" for name, stream in config.streams.items())
        numbers = ", ".join(map(str, valid))
        raise UmlError(f"{counts} cannot be shared by {ranks} ranks: use {numbers} ranks")
    found = latest_valid(folder)
    assert found is not None, "a run with checkpoints has a newest one, or an error"
    checkpoint, left = found
    words = ["python", "launchers/train.py", "--num_gpus", str(ranks), "--config", str(run / "config.toml")]
    words += ["--run", str(run), *([] if stage is None else [f"zero.stage={stage}"])]
    return [
        *([left] if left else []),
        f"step {read_state(checkpoint).step}: no conversion is needed: a checkpoint fits any stage and any number of "
        f"ranks",
        f"numbers of ranks that divide the samples of a step: {', '.join(map(str, valid))}",
        shlex.join(words),
    ]


def valid_ranks(config: RunConfig) -> list[int]:
    """Return the numbers of ranks that divide the samples of every stream, in every phase."""
    counts = [stream.count for stream in config.streams.values()]
    together = gcd(*counts, *(count for phase in config.phases for count in phase.counts.values()))
    return [number for number in range(1, together + 1) if together % number == 0]


def _damage(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint; None if it is valid."""
    try:
        verify(checkpoint)
        read_state(checkpoint)
    except UmlError as error:
        return str(error)
    return None


def _wrong_pointer(folder: Path, pointer: str) -> list[str]:
    """Return what is wrong with a pointer."""
    path = folder / pointer
    try:
        name = read_pointer(path)
    except DamagedError as error:
        return [str(error)]
    there = [name_of(checkpoint) for checkpoint in checkpoints_in(folder)]
    return [] if name in there else [f"pointer {path} names {name}, which does not exist"]
