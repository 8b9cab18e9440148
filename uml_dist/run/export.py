"""Exports a trained run for others: its weights in float32, and a model card."""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uml_shards.durable import sync_folder, write_text
from uml_shards.errors import ShardError
from uml_shards.format.manifest import Manifest

from ..config.schema import RunConfig
from ..errors import UmlError
from .checkpoint import RunState, read_networks, read_state, verify, write_checkpoint
from .checkpoint_folder import name_of
from .data import open_splits
from .inputs import Inputs, manifests_of, stored_manifests
from .model_card import model_card
from .network_state import NetworkState
from .reader import RunReader


def export(run: Path, out: Path, name: str = "best") -> list[Path]:
    """Write the networks of a checkpoint and a model card into a new folder.

    The folder is a checkpoint without the optimiser, which `load_run` and `model.init` take. Paths of this machine are
    removed from its configuration.

    Args:
        run: the run folder.
        out: the folder to create.
        name: "best", "best-NAME", "latest" or a name such as "step-000500".

    Returns:
        The files.

    Raises:
        UmlError: the checkpoint is missing or damaged, or the folder already exists or cannot be written.
    """
    if out.exists():
        raise UmlError(f"{out} already exists: choose another --out")
    reader = RunReader(run)
    checkpoint = reader.checkpoint(name)
    verify(checkpoint)
    state = read_state(checkpoint)
    networks = {
        name: NetworkState({key: _single(tensor) for key, tensor in network.weights.items()})
        for name, network in read_networks(checkpoint, optimizer=False).items()
    }
    config = reader.config()
    manifests = manifests_of(state, checkpoint) or _opened_manifests(config, state)
    complete = manifests.keys() == config.streams.keys()
    stored = {
        name: {**record, "options": without_places(record["options"])}
        for name, record in stored_manifests(manifests).items()
    }
    state = replace(state, config=without_places(state.config), manifests=stored if complete else {})
    card = model_card(
        state,
        networks={name: sum(map(Tensor.numel, network.weights.values())) for name, network in networks.items()},
        inputs=Inputs.of(config, manifests) if complete else None,
        manifests={name: manifests.get(name) for name in config.streams},
        validation=reader.last_validation(state.step),
        evaluations=list(reader.evaluations(name_of(checkpoint))),
        weights=config.train.weights,
    )
    try:
        _write(out, networks, state, card)
    except OSError as error:
        raise UmlError(f"{out} cannot be written: {error.strerror or error}") from None
    return sorted(out.iterdir())


def without_places(tree: Any) -> Any:
    """Return a configuration whose absolute paths and URLs are reduced to their last part."""
    if isinstance(tree, Mapping):
        return {key: without_places(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [without_places(value) for value in tree]
    if isinstance(tree, str) and re.match(r"[/~]|\w+://", tree):
        return re.split(r"[?#]", tree)[0].rstrip("/").rpartition("/")[2]
    return tree


def _write(out: Path, networks: Mapping[str, NetworkState], state: RunState, card: str) -> None:
    """Write the folder under a temporary name, and rename it when it is complete."""
    temporary = out.with_name(f".{out.name}.tmp")
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        write_checkpoint(temporary, networks, state)
        write_text(temporary / "README.md", card)  # not in the list of digests, since people edit it
        sync_folder(temporary)
        os.rename(temporary, out)
        sync_folder(out.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _single(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor


def _opened_manifests(config: RunConfig, state: RunState) -> dict[str, Manifest]:
    """Return the manifests of a checkpoint that does not state them; without streams whose shards moved or changed."""
    try:
        splits = open_splits(config)
    except ShardError:
        return {}
    return {name: split.manifest for name, split in splits.items() if state.data.get(name) == split.manifest.digest}
