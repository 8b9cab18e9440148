"""A trained run for others: its weights in float32, what they are, and how to load them."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uml_shards.durable import sync_folder, write_text
from uml_shards.errors import ShardError
from uml_shards.format.manifest import Manifest

from ..config.loading import read_config
from ..config.schema import RunConfig
from ..errors import UmlError
from .checkpoint import RunState, read_networks, read_state, verify, write_checkpoint
from .checkpoint_folder import find_checkpoint, name_of
from .data import open_splits
from .maintenance import checkpoints_of
from .model_card import model_card
from .network_state import NetworkState


def export(run: Path, out: Path, pointer: str = "best") -> list[Path]:
    """Write the networks of a checkpoint and a model card into a new folder.

    The folder is a checkpoint without the optimiser, so `model.init` takes it as it is; paths of this machine are left
    out of its configuration.

    Args:
        run: its folder.
        out: the folder to make.
        pointer: "best" or "latest".

    Returns:
        The files.

    Raises:
        UmlError: there is no such checkpoint, it is damaged, or the folder is there already or cannot be written.
    """
    if out.exists():
        raise UmlError(f"{out} is there already: choose another --out")
    checkpoints_of(run)
    config = read_config(run / "config.toml")
    checkpoint = find_checkpoint(run, pointer)
    if checkpoint is None:
        raise UmlError(f"run {run} has no {pointer} checkpoint: train it first, or choose the other by --checkpoint")
    verify(checkpoint)
    state = read_state(checkpoint)
    networks = {
        name: NetworkState({key: _single(tensor) for key, tensor in network.weights.items()})
        for name, network in read_networks(checkpoint, optimizer=False).items()
    }
    state = replace(state, config=without_places(state.config))
    card = model_card(
        state,
        networks={name: sum(map(Tensor.numel, network.weights.values())) for name, network in networks.items()},
        manifests=_manifests(config, state),
        validation=_last_validation(run, state.step),
        evaluations=list(_evaluations(run, name_of(checkpoint))),
    )
    try:
        _write(out, networks, state, card)
    except OSError as error:
        raise UmlError(f"{out} cannot be written: {error.strerror or error}") from None
    return sorted(out.iterdir())


def without_places(tree: Any) -> Any:
    """A configuration of whose absolute paths and URLs only the last part is left."""
    if isinstance(tree, Mapping):
        return {key: without_places(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [without_places(value) for value in tree]
    if isinstance(tree, str) and re.match(r"[/~]|\w+://", tree):
        return re.split(r"[?#]", tree)[0].rstrip("/").rpartition("/")[2]
    return tree


def _write(out: Path, networks: Mapping[str, NetworkState], state: RunState, card: str) -> None:
    """Write the folder under another name, and give it its own when it is whole."""
    temporary = out.with_name(f".{out.name}.tmp")
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        write_checkpoint(temporary, networks, state)
        write_text(temporary / "README.md", card)  # not in the list of digests: people add to it
        sync_folder(temporary)
        os.rename(temporary, out)
        sync_folder(out.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _single(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor


def _manifests(config: RunConfig, state: RunState) -> dict[str, Manifest | None]:
    """The manifest of every stream; None where the shards are not where training found them, or may be others."""
    try:
        splits = open_splits(config)
    except ShardError:
        splits = {}
    found = {name: split.manifest for name, split in splits.items()}
    same = {name for name, manifest in found.items() if state.data.get(name) == manifest.digest}
    return {name: found[name] if name in same else None for name in config.streams}


def _last_validation(run: Path, step: int) -> dict[str, Any]:
    """The figures of the last validation up to a step, with its step; empty where there was none."""
    last: dict[str, Any] = {}
    for record in _records(run / "metrics.jsonl"):
        figures = {
            key.removeprefix("validation_"): value for key, value in record.items() if key.startswith("validation_")
        }
        if figures and record.get("step", step + 1) <= step:
            last = {"step": record["step"], "metrics": figures, "empty_masks": record.get("empty_masks")}
    return last


def _evaluations(run: Path, checkpoint: str) -> Iterable[dict[str, Any]]:
    """What `evaluate.py` has found for a checkpoint."""
    for path in sorted((run / "evaluation").glob("*/metrics.json")):
        for record in _records(path, whole=True):
            if record.get("checkpoint") == checkpoint:
                yield record


def _records(path: Path, whole: bool = False) -> Iterable[dict[str, Any]]:
    """The JSON objects of a file, or of its lines; what is no JSON is passed over."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    for part in [text] if whole else text.splitlines():
        try:
            record = json.loads(part)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record
