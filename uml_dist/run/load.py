"""Loads a trained run: `load_run("runs/isic")`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from uml_shards.address import Address, parse_location
from uml_shards.errors import ShardError
from uml_shards.format.manifest import Manifest, Statistics
from uml_shards.read.split import Split, find_splits
from uml_shards.read.stream import Stream

from ..batch import Batch, Prediction
from ..config.schema import RunConfig
from ..errors import UmlError
from ..evaluate import Predictor
from ..launch.precision import computes_in_bf16
from ..nn.keyed_dropout import name_layers
from ..recipes import Recipe, recipe_class, trained_source
from .checkpoint import RunState, read_networks, read_state, verify
from .data import (
    Size,
    check_stream,
    evaluation_stream,
    input_statistics,
    open_splits,
    open_stream_split,
    stream_sizes,
)
from .network_state import with_added
from .reader import RunReader


@dataclass(frozen=True)
class Run:
    """A trained run, ready to predict.

    Attributes:
        path: the run folder.
        checkpoint: folder of the checkpoint that was read.
        state: progress of the run at the checkpoint.
        config: the run's configuration.
        recipe: the recipe with its configuration and manifests.
        networks: the networks by name, in evaluation mode.
        sizes: (H, W) of every stream's images, or (H, W, D) of the patches of its volumes.
        device: device of the networks.
        notes: lines for the user on how the checkpoint was read.
    """

    path: Path
    checkpoint: Path
    state: RunState
    config: RunConfig
    recipe: Recipe
    networks: Mapping[str, nn.Module]
    sizes: Mapping[str, Size]
    device: torch.device
    notes: tuple[str, ...] = ()

    @property
    def first_stream(self) -> str:
        """Name of the first stream."""
        return next(iter(self.recipe.streams))

    @property
    def manifest(self) -> Manifest:
        """Manifest of the first stream's training data."""
        return self.recipe.manifests[self.first_stream]

    @property
    def statistics(self) -> Statistics:
        """Statistics by which images are normalised."""
        return input_statistics(self.config, self.manifest)

    @property
    def predictor(self) -> Predictor:
        """The recipe with its networks, in the precision of training."""
        enabled = computes_in_bf16(self.config.train.precision, self.device)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)
        return Predictor(self.recipe, self.networks, self.device, autocast)

    def predict(self, batch: Batch) -> Prediction:
        """Return the predictions for a batch on the run's device."""
        return self.predictor.predict(batch)

    def to(self, device: torch.device) -> "Run":
        """Return the run with its networks moved to another device."""
        networks = {name: network.to(device) for name, network in self.networks.items()}
        return Run(**{**vars(self), "networks": networks, "device": device})

    def open_split(self, name: str, stream: str | None = None) -> Split:
        """Open a split of a stream's data set; by default the first stream's.

        Raises:
            UmlError: there is no such stream or split, or its classes are not those of the training.
            ShardError: its files disagree, or cannot be fetched.
        """
        stream = stream or self.first_stream
        if stream not in self.recipe.streams:
            raise UmlError(f"there is no stream {stream!r}: there is {', '.join(self.recipe.streams)}")
        shards = parse_location(self.config.streams[stream].shards)
        known = [split.name for split in find_splits(shards)]
        if name not in known and not isinstance(shards, Address):  # a URL cannot be listed
            raise UmlError(f"there is no split {name!r} in {shards}: there is {', '.join(known) or 'none'}")
        kind, manifests = type(self.recipe), self.recipe.manifests
        split = open_stream_split(self.config, kind, stream, name, manifests)
        check_stream(self.config, kind, stream, split.manifest, manifests, name)
        return split

    def stream(self, split: Split, stream: str | None = None) -> Stream:
        """Return a split in its own order, in the size of a stream and normalised as the training data are."""
        return evaluation_stream(self.config, split, self.sizes[stream or self.first_stream], self.statistics)


def load_run(
    path: str | Path,
    checkpoint: str = "best",
    device: torch.device | str | None = None,
    shards: str | Path | None = None,
) -> Run:
    """Read a trained run.

    Args:
        path: the run folder.
        checkpoint: "best", "best-NAME", "latest" or a name such as "step-000500".
        device: device of the networks; by default the first GPU, or the CPU without one.
        shards: folder or URL of the first stream's data set, if it has moved since training.

    Raises:
        UmlError: the run or the checkpoint is missing or damaged, or its shards are missing or have changed.
    """
    path = Path(path)
    reader = RunReader(path)
    config, folder = reader.config(), reader.checkpoint(checkpoint)
    verify(folder)
    state = read_state(folder)
    kind = recipe_class(config.recipe)
    config = _with_shards(config, next(iter(kind.streams)), shards)
    try:
        splits = open_splits(config)
    except ShardError as error:
        raise UmlError(
            f"the shards of run {path}: {error}; if they have moved, name their folder by --shards"
        ) from None
    for name, split in splits.items():
        if state.data.get(name, split.manifest.digest) != split.manifest.digest:
            ids = config.streams[name].labelled_ids
            now = f"{split.path.parent}, or another list than {ids}" if ids else str(split.path.parent)
            raise UmlError(
                f"run {path} was trained on other shards than those in {now}: name the shards of the training by "
                f"--shards"
            )
    manifests = {name: split.manifest for name, split in splits.items()}
    recipe = kind(config, manifests)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    networks, lines = _networks(recipe, folder)
    networks = {name: network.to(chosen) for name, network in networks.items()}
    return Run(path, folder, state, config, recipe, networks, stream_sizes(config, manifests), chosen, tuple(lines))


def _with_shards(config: RunConfig, first: str, shards: str | Path | None) -> RunConfig:
    """Return the configuration with another location for every stream that reads the first one's data set."""
    if shards is None:
        return config
    old = config.streams[first].shards
    streams = {
        name: stream.model_copy(update={"shards": str(shards)}) if stream.shards == old else stream
        for name, stream in config.streams.items()
    }
    return config.model_copy(update={"streams": streams})


def _networks(recipe: Recipe, checkpoint: Path) -> tuple[dict[str, nn.Module], list[str]]:
    """Read the networks of a checkpoint; also return lines for the user on how they were read."""
    states, networks, lines = read_networks(checkpoint, optimizer=False), {}, []
    for name in recipe.networks:
        source = trained_source(recipe.networks, name)
        module = name_layers(source.build())
        try:
            state, more = with_added(states[name], module, source.added, str(checkpoint))
            module.load_state_dict(state.weights, strict=True)
        except (KeyError, RuntimeError):
            raise UmlError(
                f"checkpoint {checkpoint} does not fit network {name} of its configuration: "
                "read it with the version of uml_dist that wrote it"
            ) from None
        networks[name] = module.eval().requires_grad_(False)
        lines += more
    return networks, lines
