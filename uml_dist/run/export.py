"""Exports a trained run for others: its weights in float32 or a graph of its prediction, and a model card."""

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from uml_shards.durable import sync_folder, write_text
from uml_shards.errors import ShardError
from uml_shards.format.manifest import Manifest

from ..config.schema import RunConfig
from ..errors import UmlError
from .checkpoint import RunState, read_networks, read_state, verify, write_checkpoint, write_digests
from .checkpoint_folder import name_of
from .data import open_splits
from .graph import capture
from .graph_file import FILES, check_packages, write_graph
from .inputs import Inputs, manifests_of, stored_manifests
from .load import load_run
from .model_card import model_card
from .network_state import NetworkState
from .reader import RunReader

Format = Literal["safetensors", "onnx", "torch-export"]


def export(run: Path, out: Path, name: str = "best", to: Format = "safetensors") -> list[Path]:
    """Write the networks of a checkpoint, or a graph of their prediction, and a model card into a new folder.

    With weights, the folder is a checkpoint without the optimiser, which `load_run` and `model.init` take. A graph is
    for other programs: `graph.json` beside it states its inputs and outputs. Paths of this machine are removed from
    the configuration.

    Args:
        run: the run folder.
        out: the folder to create.
        name: "best", "best-NAME", "latest" or a name such as "step-000500".
        to: weights, or a graph for ONNX runtimes or for `torch.export.load`.

    Returns:
        The files.

    Raises:
        UmlError: the checkpoint is missing or damaged, the folder already exists or cannot be written, a package is
            missing, or the recipe's prediction cannot be exported in this format.
    """
    if out.exists():
        raise UmlError(f"{out} already exists: choose another --out")
    if to != "safetensors":
        check_packages(to)
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
        # The figures of the perfect model are not those of this one.
        evaluations=[one for one in reader.evaluations(name_of(checkpoint)) if not one.get("ceiling")],
        weights=config.train.weights,
        name=out.name,
        graph=None if to == "safetensors" else FILES[to],
    )

    def write(folder: Path) -> None:
        if to == "safetensors":
            write_checkpoint(folder, networks, state)
            return
        loaded = load_run(run, name, "cpu")
        write_checkpoint(folder, {}, state)
        write_graph(folder, loaded, capture(loaded), to)
        write_digests(folder)

    try:
        _write(out, write, card)
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


def _write(out: Path, write: Callable[[Path], None], card: str) -> None:
    """Write the folder under a temporary name, and rename it when it is complete."""
    temporary = out.with_name(f".{out.name}.tmp")
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        write(temporary)
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
