"""Checkpoints that fit any ZeRO stage and any number of ranks: safetensors, one JSON, and a list of digests.

    checkpoints/step-001200/<network>.safetensors            weights and buffers, float32
                            <network>.optimizer.safetensors  <moment>/<parameter>
                            state.json                       progress of the run (`RunState`) and its configuration
                            MANIFEST.json                    sha256 of each of these files
    checkpoints/latest, best                                 the name of a step folder

A folder is written under a temporary name, synced to the disk and renamed when it is complete; then `latest` is pointed
to it. Whenever the writer is killed, the older checkpoint or the new one is complete. Nothing is pickled.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic_core import from_json
from safetensors.torch import load_file
from torch import Tensor

from uml_shards.durable import sync_folder, write_text

from ..errors import UmlError, refusing
from .checkpoint_files import Files, save_files, write_files
from .checkpoint_folder import (
    USE_ANOTHER,
    DamagedError,
    checkpoints_in,
    find_checkpoint,
    place_of,
    read_pointer,
    step_of,
)
from .network_state import NetworkState
from .tensor_file import tensor_file

FORMAT = 1

Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 63)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


@dataclass
class RunState:
    """The progress of a run. What a checkpoint states is checked against these types when it is read.

    Attributes:
        recipe: name of the recipe.
        step: optimiser steps done.
        phase: number of the phase to which the next step belongs.
        phase_step: steps done in that phase.
        positions: samples that each stream has yielded.
        steps_of: optimiser steps that each trained network has taken.
        best: value of the best metric so far; None before the first validation.
        best_step: the step at which it was reached.
        more_best: validation `[validations.NAME]` -> the best value of its metric so far.
        until_best: best value in this phase of the metric that ends it.
        until_misses: validations since then.
        data: digest of each stream's manifest.
        manifests: manifest of each stream, as JSON: classes, size, channels and statistics of the inputs; see
            `uml_dist.run.inputs`.
        config: the resolved configuration.
        versions: versions of the libraries that wrote the checkpoint.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    recipe: str
    step: Count = 0
    phase: Count = 0
    phase_step: Count = 0
    positions: dict[str, Count] = field(default_factory=dict)
    steps_of: dict[str, Count] = field(default_factory=dict)
    best: Number | None = None
    best_step: Count | None = None
    more_best: dict[str, Number] = field(default_factory=dict)
    until_best: Number | None = None
    until_misses: Count = 0
    data: dict[str, str] = field(default_factory=dict)
    manifests: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


_STATE = TypeAdapter(RunState)
_DIGESTS = TypeAdapter(dict[str, str])


def save_checkpoint(
    folder: Path,
    networks: Mapping[str, NetworkState],
    run: RunState,
    pointers: Sequence[str] = (),
    keep: int | None = None,
) -> Path:
    """Write a checkpoint into a run's `checkpoints` folder and point `latest` to it. One process calls it.

    Args:
        folder: the `checkpoints` folder.
        networks: the states of the networks.
        run: the progress of the run.
        pointers: names of further pointers to it.
        keep: number of newest checkpoints to keep; by default, none is removed.

    Returns:
        The checkpoint's folder.

    Raises:
        UmlError: it cannot be written; the previous checkpoints are unchanged.
    """
    return save_files(folder, run.step, files_of(networks, run), pointers, keep)


def write_checkpoint(folder: Path, networks: Mapping[str, NetworkState], run: RunState) -> None:
    """Write the files of a checkpoint into a new folder and sync them to the disk.

    Raises:
        OSError: they cannot be written.
    """
    write_files(folder, files_of(networks, run))


def files_of(networks: Mapping[str, NetworkState], run: RunState) -> Files:
    """Return the files of a checkpoint except for MANIFEST.json, whose pieces can be read once."""
    files: dict[str, Iterable[bytes | memoryview]] = {}
    for name, state in networks.items():
        files[f"{name}.safetensors"] = tensor_file(state.weights)
        moments = {
            f"{moment}/{key}": tensor for moment, tensors in state.moments.items() for key, tensor in tensors.items()
        }
        if moments:
            files[f"{name}.optimizer.safetensors"] = tensor_file(moments)
    files["state.json"] = [(json.dumps({"format": FORMAT, **asdict(run)}, indent=1) + "\n").encode()]
    return files


def write_digests(folder: Path) -> None:
    """Write the list of digests of the files in a folder, and sync the folder to the disk."""
    digests = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != "MANIFEST.json"}
    write_text(folder / "MANIFEST.json", json.dumps(digests, indent=1) + "\n")
    sync_folder(folder)


def latest_valid(folder: Path) -> tuple[Path, str | None] | None:
    """Return the checkpoint to resume from: the latest or, if it is damaged, the newest valid one before it.

    Args:
        folder: folder of the checkpoints.

    Returns:
        Its folder, verified, and one line on the damaged ones that are passed over; None if there are no checkpoints.

    Raises:
        UmlError: none of them is valid.
    """
    there = list(reversed(checkpoints_in(folder)))
    left = []
    pointer = folder / "latest"
    if pointer.exists():
        try:
            latest = read_pointer(pointer)
            if place_of(folder, latest) not in there:
                raise DamagedError(f"pointer {pointer} names {latest}, which does not exist")
            there = [path for path in there if step_of(path) <= step_of(folder / latest)]
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
    """Read the progress of a run from a checkpoint.

    Raises:
        DamagedError: state.json is missing or damaged.
        UmlError: it has another format.
    """
    with _reading(checkpoint, "state.json"):
        tree = from_json((checkpoint / "state.json").read_bytes())
        if tree.pop("format") != FORMAT:
            raise UmlError(
                f"checkpoint {checkpoint} does not have format {FORMAT}: read it with the version that wrote it"
            )
        return _STATE.validate_python(tree)


def _reading(checkpoint: Path, name: str) -> AbstractContextManager[None]:
    """Report any error in a JSON file of a checkpoint as damage."""
    return refusing(f"checkpoint {checkpoint} has no readable {name}", USE_ANOTHER.removeprefix(": "), DamagedError)


def verify(checkpoint: Path) -> None:
    """Check the digest of every file of a checkpoint.

    Raises:
        DamagedError: a file is missing, has changed, or contains tensors that are not in the list of digests.
    """
    with _reading(checkpoint, "MANIFEST.json"):
        digests = _DIGESTS.validate_json((checkpoint / "MANIFEST.json").read_bytes())
        if "state.json" not in digests:
            raise ValueError("it does not list state.json")
    for name in sorted({*digests, *(path.name for path in checkpoint.glob("*.safetensors"))}):
        if not _is(checkpoint, name, digests.get(name)):
            raise DamagedError(f"checkpoint {checkpoint}: {name} is missing or damaged{USE_ANOTHER}")


def _is(checkpoint: Path, name: str, digest: Any) -> bool:
    """Return whether a file exists in the checkpoint's own folder and has a digest."""
    path = checkpoint / name
    try:
        return path.parent == checkpoint and path.is_file() and sha256_of(path) == digest
    except (OSError, ValueError):  # unreadable, or not a file name
        return False


def read_networks(checkpoint: Path, optimizer: bool = True) -> dict[str, NetworkState]:
    """Read the networks of a checkpoint, on the CPU.

    Args:
        checkpoint: its folder, verified.
        optimizer: whether to read the optimiser's moments.
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
    """Read weights for fine-tuning: the named networks of a checkpoint, or the first network from a safetensors file.

    Raises:
        UmlError: the checkpoint or the file is damaged, or the folder is an exported graph.
    """
    checkpoint = find_checkpoint(path, "best") or find_checkpoint(path)
    if checkpoint is None:
        return {names[0]: load_tensors(path)}
    verify(checkpoint)
    found = {path.name.removesuffix(".safetensors"): path for path in checkpoint.glob("*.safetensors")}
    if not found:
        raise UmlError(f"{path} contains no weights: name a run folder, or an export with --to safetensors")
    return {name: load_tensors(found[name]) for name in names if name in found}


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Raises:
        UmlError: it cannot be read.
    """
    with refusing(f"{path} cannot be read as safetensors"):
        return load_file(path)


def sha256_of(path: Path) -> str:
    """Return the sha256 digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
