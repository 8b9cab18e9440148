"""Checkpoints that know neither ZeRO stage nor world size: safetensors, one JSON, and a list of digests.

    checkpoints/step-001200/<network>.safetensors            weights and buffers, float32
                            <network>.optimizer.safetensors  <moment>/<parameter>
                            state.json                       where the run is (`RunState`) and its configuration
                            MANIFEST.json                    sha256 of each of these files
    checkpoints/latest, best                                 the name of a step folder

A folder is written under a temporary name, renamed when whole, and `latest` is turned to it last. Nothing is pickled.
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

from ..errors import UmlError
from .state import NetworkState

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
    data: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def folder_name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:06d}"


def save_checkpoint(folder: Path, networks: Mapping[str, NetworkState], run: RunState) -> Path:
    """Write a checkpoint below a run's `checkpoints` folder and turn `latest` to it. One process calls it.

    Returns:
        The checkpoint's folder.
    """
    final = folder / folder_name(run.step)
    temporary = folder / f".{final.name}.tmp"
    for unfinished in folder.glob(".step-*.tmp"):
        shutil.rmtree(unfinished)
    temporary.mkdir(parents=True)
    for name, state in networks.items():
        save_file({key: value.contiguous() for key, value in state.weights.items()}, temporary / f"{name}.safetensors")
        moments = {
            f"{moment}/{key}": tensor.contiguous()
            for moment, tensors in state.moments.items()
            for key, tensor in tensors.items()
        }
        if moments:
            save_file(moments, temporary / f"{name}.optimizer.safetensors")
    (temporary / "state.json").write_text(json.dumps({"format": FORMAT, **asdict(run)}, indent=1) + "\n")
    digests = {path.name: sha256_of(path) for path in sorted(temporary.iterdir())}
    (temporary / "MANIFEST.json").write_text(json.dumps(digests, indent=1) + "\n")
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    point(folder / "latest", final.name)
    return final


def point(pointer: Path, name: str) -> None:
    """Let a pointer file name a checkpoint, atomically."""
    temporary = pointer.with_name(f".{pointer.name}.tmp")
    temporary.write_text(name + "\n")
    temporary.replace(pointer)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest checkpoints and those that a pointer names."""
    named = {(folder / pointer).read_text().strip() for pointer in ("latest", "best") if (folder / pointer).is_file()}
    # By length first: beyond six digits the names no longer sort as their numbers do.
    for old in sorted(folder.glob("step-*"), key=lambda path: (len(path.name), path.name))[:-keep]:
        if old.name not in named:
            shutil.rmtree(old)


def find_checkpoint(path: Path, pointer: str = "latest") -> Path | None:
    """The checkpoint that a path means: itself, or what `latest` (or `best`) names in a run or `checkpoints` folder."""
    for folder in (path / "checkpoints", path):
        if (folder / pointer).is_file():
            return folder / (folder / pointer).read_text().strip()
    return path if (path / "state.json").is_file() else None


def read_state(checkpoint: Path) -> RunState:
    """Where the run of a checkpoint is.

    Raises:
        UmlError: it is missing, damaged or of another format.
    """
    try:
        tree = json.loads((checkpoint / "state.json").read_text())
        if tree.pop("format") != FORMAT:
            raise UmlError(f"checkpoint {checkpoint} is not of format {FORMAT}: read it with the version that wrote it")
        return RunState(**tree)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UmlError):
            raise
        raise UmlError(f"checkpoint {checkpoint} has no readable state.json: use another checkpoint") from None


def verify(checkpoint: Path) -> None:
    """Check the digest of every file of a checkpoint.

    Raises:
        UmlError: a file is missing or is not what was written.
    """
    try:
        digests = json.loads((checkpoint / "MANIFEST.json").read_text())
        if not isinstance(digests, dict) or "state.json" not in digests:
            raise ValueError
    except (OSError, ValueError):
        raise UmlError(f"checkpoint {checkpoint} has no readable MANIFEST.json: use another checkpoint") from None
    for name, digest in digests.items():
        path = checkpoint / name
        if not path.is_file() or sha256_of(path) != digest:
            raise UmlError(f"checkpoint {checkpoint}: {name} is missing or damaged: use another checkpoint")


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
