"""Checkpoints that know neither ZeRO stage nor world size: safetensors, one JSON, and a list of digests.

    checkpoints/step-001200/<network>.safetensors            weights and buffers, float32
                            <network>.optimizer.safetensors  <moment>/<parameter>
                            state.json                       where the run is (`RunState`) and its configuration
                            MANIFEST.json                    sha256 of each of these files
    checkpoints/latest, best                                 the name of a step folder

A folder is written under a temporary name, brought down to the disk, renamed when whole, and `latest` is turned to it
last: whenever the writer is killed, the older checkpoint or the new one is whole. Nothing is pickled.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from uml_shards.durable import sync, sync_folder, write_text

from ..errors import UmlError
from .checkpoint_folder import (
    USE_ANOTHER,
    DamagedError,
    checkpoints_in,
    find_checkpoint,
    folder_name,
    place_of,
    point,
    read_pointer,
    step_of,
    tidy,
)
from .network_state import NetworkState

FORMAT = 1


@dataclass
class RunState:
    """Where a run is.

    Attributes:
        recipe: its name.
        step: optimiser steps done.
        phase: number of the phase the next step belongs to.
        phase_step: steps done in that phase.
        positions: samples that each stream has given.
        steps_of: optimiser steps that each trained network has taken.
        best: value of the best metric so far; None before the first validation.
        best_step: the step at which it was reached.
        more_best: validation `[validations.NAME]` -> the best value of its metric so far.
        until_best: best value in this phase of the metric that ends it.
        until_misses: validations since then.
        data: digest of each stream's manifest.
        config: the resolved configuration.
        versions: of the libraries that wrote it.
    """

    recipe: str
    step: int = 0
    phase: int = 0
    phase_step: int = 0
    positions: dict[str, int] = field(default_factory=dict)
    steps_of: dict[str, int] = field(default_factory=dict)
    best: float | None = None
    best_step: int | None = None
    more_best: dict[str, float] = field(default_factory=dict)
    until_best: float | None = None
    until_misses: int = 0
    data: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def save_checkpoint(folder: Path, networks: Mapping[str, NetworkState], run: RunState) -> Path:
    """Write a checkpoint below a run's `checkpoints` folder and turn `latest` to it. One process calls it.

    Returns:
        The checkpoint's folder.

    Raises:
        UmlError: it cannot be written; what was there before is whole and the latest still.
    """
    final = folder / folder_name(run.step)
    temporary = folder / f".{final.name}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tidy(folder)
        write_checkpoint(temporary, networks, run)
        if final.exists():
            final.rename(folder / f".{final.name}.old")
        temporary.rename(final)
        sync_folder(folder)
        point(folder / "latest", final.name)
        tidy(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)  # mostly the disk is full: leave others room to say so
        raise UmlError(
            f"checkpoint {final} cannot be written: {error.strerror or error}: make room or fix the disk, then resume "
            f"with --run {folder.parent}"
        ) from None
    return final


def write_checkpoint(folder: Path, networks: Mapping[str, NetworkState], run: RunState) -> None:
    """Write the files of a checkpoint into a new folder, down to the disk.

    Raises:
        OSError: they cannot be written.
    """
    folder.mkdir()
    for name, state in networks.items():
        _save(state.weights, folder / f"{name}.safetensors")
        moments = {
            f"{moment}/{key}": tensor for moment, tensors in state.moments.items() for key, tensor in tensors.items()
        }
        if moments:
            _save(moments, folder / f"{name}.optimizer.safetensors")
    write_text(folder / "state.json", json.dumps({"format": FORMAT, **asdict(run)}, indent=1) + "\n")
    digests = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    write_text(folder / "MANIFEST.json", json.dumps(digests, indent=1) + "\n")
    sync_folder(folder)


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(str(error).partition("\n")[0]) from None
    sync(path)


def latest_valid(folder: Path) -> tuple[Path, str | None] | None:
    """The checkpoint that a run goes on from: the latest or, where that one is damaged, the newest whole one before it.

    Args:
        folder: of the checkpoints.

    Returns:
        Its folder, verified, and what is wrong with those that are left, in one line; None where there is none at all.

    Raises:
        UmlError: none of them is whole.
    """
    there = list(reversed(checkpoints_in(folder)))
    left = []
    pointer = folder / "latest"
    if pointer.exists():
        try:
            latest = place_of(folder, read_pointer(pointer))
            there = [latest, *(path for path in there if step_of(path) < step_of(latest))]
        except DamagedError as error:
            left.append(_wrong(error))
    elif there:
        left.append(f"pointer {pointer} is missing")
    for path in there:
        try:
            verify(path)
            read_state(path)
        except DamagedError as error:
            left.append(_wrong(error))
        else:
            return path, f"{'; '.join(left)}: resuming from {path.name}, which is valid" if left else None
    if not left:
        return None
    raise UmlError(f"{'; '.join(left)}: no checkpoint is valid: copy one from elsewhere, or choose another --run")


def _wrong(error: DamagedError) -> str:
    return str(error).removesuffix(USE_ANOTHER)


def read_state(checkpoint: Path) -> RunState:
    """Where the run of a checkpoint is.

    Raises:
        DamagedError: it is missing or damaged.
        UmlError: it is of another format.
    """
    try:
        tree = json.loads((checkpoint / "state.json").read_text())
        if tree.pop("format") != FORMAT:
            raise UmlError(f"checkpoint {checkpoint} is not of format {FORMAT}: read it with the version that wrote it")
        return RunState(**tree)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UmlError):
            raise
        raise DamagedError(f"checkpoint {checkpoint} has no readable state.json{USE_ANOTHER}") from None


def verify(checkpoint: Path) -> None:
    """Check the digest of every file of a checkpoint.

    Raises:
        DamagedError: a file is missing, is not what was written, or holds tensors that nobody wrote.
    """
    try:
        digests = json.loads((checkpoint / "MANIFEST.json").read_text())
        if not isinstance(digests, dict) or "state.json" not in digests:
            raise ValueError
    except (OSError, ValueError):
        raise DamagedError(f"checkpoint {checkpoint} has no readable MANIFEST.json{USE_ANOTHER}") from None
    for name in sorted({*digests, *(path.name for path in checkpoint.glob("*.safetensors"))}):
        if not _is(checkpoint, name, digests.get(name)):
            raise DamagedError(f"checkpoint {checkpoint}: {name} is missing or damaged{USE_ANOTHER}")


def _is(checkpoint: Path, name: str, digest: Any) -> bool:
    """Whether a file is there, in the checkpoint's own folder, and is what was written."""
    path = checkpoint / name
    try:
        return path.parent == checkpoint and path.is_file() and sha256_of(path) == digest
    except (OSError, ValueError):  # unreadable, or no name of a file
        return False


def read_networks(checkpoint: Path, optimizer: bool = True) -> dict[str, NetworkState]:
    """The networks of a checkpoint, on the CPU.

    Args:
        checkpoint: its folder, verified.
        optimizer: read the moments too.
    """
    steps_of = read_state(checkpoint).steps_of
    states = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        name = path.name.removesuffix(".safetensors")
        if name.endswith(".optimizer"):
            continue
        beside = checkpoint / f"{name}.optimizer.safetensors"
        moments: dict[str, dict[str, Tensor]] = {}
        if optimizer and beside.is_file():
            for key, value in load_tensors(beside).items():
                moment, _, parameter = key.partition("/")
                moments.setdefault(moment, {})[parameter] = value
        states[name] = NetworkState(load_tensors(path), moments, steps_of.get(name, 0))
    return states


def read_weights_file(path: Path, names: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    """Weights for fine-tuning: of networks by these names in a checkpoint, or of the first in a safetensors file.

    Raises:
        UmlError: it is damaged.
    """
    checkpoint = find_checkpoint(path, "best") or find_checkpoint(path)
    if checkpoint is None:
        return {names[0]: load_tensors(path)}
    verify(checkpoint)
    found = {path.name.removesuffix(".safetensors"): path for path in checkpoint.glob("*.safetensors")}
    return {name: load_tensors(found[name]) for name in names if name in found}


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UmlError: it cannot be read.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UmlError(f"{path} cannot be read as safetensors: {str(error).splitlines()[0]}") from None


def sha256_of(path: Path) -> str:
    """The sha256 digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
