"""Loads a trained run: `load_run("runs/isic")`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from uml_shards.address import Address, Location, parse_location
from uml_shards.errors import ShardError
from uml_shards.format.manifest import Manifest, Statistics
from uml_shards.read.augment import resize
from uml_shards.read.samples import Samples
from uml_shards.read.split import Split, find_splits
from uml_shards.read.stream import Stream
from uml_shards.sample import Sample

from ..batch import Batch, Prediction, batch_of
from ..config.loading import apply_overrides, validate
from ..config.reading import FOLD_SPLIT
from ..config.schema import RunConfig, Weights
from ..errors import UmlError
from ..evaluate import Predictor
from ..launch.precision import computes_in_bf16
from ..nn.keyed_dropout import name_layers
from ..recipes import Network, Recipe, averages_in, networks_of, predicting, recipe_class, trained_source
from .checkpoint import RunState, read_networks, read_state, verify
from .data import (
    Size,
    check_dimensions,
    check_evaluation,
    check_stream,
    evaluation_stream,
    fold_of,
    input_statistics,
    open_splits,
    open_stream_split,
    reads_whole,
    stream_sizes,
)
from .inputs import manifests_of
from .network_state import with_added
from .reader import RunReader

NAME_SHARDS = "if they have moved, name their folder by --shards"
"""The remedy where the shards of a run are not at their place."""

EVALUATION_TABLES = ("windows.", "evaluation.")
"""Tables whose keys can be changed when a trained run is loaded."""

GRAPH_DESCRIPTION = "graph.json"
"""The file that describes the graph in a folder that was exported as one."""

Data = Literal["training", "other", "gone"]
"""What a run's shards are: those of its training; others; or not there, or not all of them."""


@dataclass(frozen=True)
class Run:
    """A trained run, ready to predict.

    Attributes:
        path: the run folder, or the folder of exported weights.
        checkpoint: folder of the checkpoint that was read.
        state: progress of the run at the checkpoint.
        config: the run's configuration.
        recipe: the recipe with its configuration and manifests.
        networks: the networks by name, in evaluation mode.
        sizes: (H, W) of every stream's images, or (H, W, D) of the patches of its volumes.
        device: device of the networks.
        notes: lines for the user on how the checkpoint was read.
        weights: the weights of trained networks that predictions use; `networks` contains both.
        shards_given: whether the caller named the data set, which may then be another one than that of the training.
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
    weights: Weights = "trained"
    shards_given: bool = False

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
        sources = predicting(self.recipe, self.weights)
        networks = {name: self.networks[source] for name, source in sources.items()}
        return Predictor.of(self.recipe, networks, self.device, autocast)

    @cached_property
    def data(self) -> Data:
        """What the shards are at the place that the configuration, or the caller, names."""
        try:
            splits = open_splits(self.config)
        except ShardError:
            return "gone"
        return "training" if _changed(self.state, splits) is None else "other"

    def predict(self, batch: Batch) -> Prediction:
        """Return the predictions for a batch on the run's device; by windows if its size is not that of training."""
        return self.predictor.predict(batch, self.sizes[self.first_stream])

    def predict_images(self, images: Sequence[NDArray[Any]]) -> Prediction:
        """Return the predictions for images that are in no shards; they are prepared as in evaluations of the run.

        Args:
            images: images (H, W, channels), uint8 or uint16, of any sizes if they are resized, of one size if they are
                predicted by windows; or volumes (H, W, D, channels) of one size, prepared as those of the training.
                Grey images may lack the axis of channels.

        Raises:
            UmlError: an image has another number of axes or channels, or another type.
        """
        if not len(images):
            raise UmlError("predict_images got no image: give at least one")
        volumes, channels, size = self.recipe.dimensions == 3, self.manifest.channels, self.sizes[self.first_stream]
        whole, arrays = reads_whole(self.config, self.manifest), []
        for number, image in enumerate(images):
            array = image[..., None] if channels == 1 and image.ndim == self.recipe.dimensions else image
            if array.ndim != self.recipe.dimensions + 1 or array.shape[-1] != channels:
                axes = "H, W, D" if volumes else "H, W"
                raise UmlError(f"image {number} has the shape {image.shape}: the run needs ({axes}, {channels})")
            if not volumes and array.dtype not in (np.uint8, np.uint16):
                raise UmlError(f"image {number} has the type {array.dtype}: the run needs uint8 or uint16")
            arrays.append(array if whole else resize(Sample("", array), size).image)
        if len({array.shape for array in arrays}) > 1:
            raise UmlError(f"the {'volumes' if volumes else 'images'} differ in shape: predict them one by one")
        return self.predict(batch_of(arrays, self.statistics).to(self.device))

    def to(self, device: torch.device) -> "Run":
        """Return the run with its networks moved to another device."""
        networks = {name: network.to(device) for name, network in self.networks.items()}
        return replace(self, networks=networks, device=device)

    def open_split(self, name: str, stream: str | None = None, tasks_only: bool = False) -> Split | Samples:
        """Open a split of a stream's data set, or the held-out fold of a run with folds; by default the first stream's.

        Args:
            name: name of the split; "fold" for the held-out fold.
            stream: the stream.
            tasks_only: whether its image classes may differ from those of the training, as long as both name a binary
                task: see `tasks`.

        Raises:
            UmlError: there is no such stream or split, its classes are not those of the training, or its data set is
                not that of the training although none was named.
            ShardError: its files disagree, or cannot be fetched.
        """
        stream = _known_stream(type(self.recipe), stream)
        shards = parse_location(self.config.streams[stream].shards)
        if fold_of(self.config) is not None and name == FOLD_SPLIT:
            if self.data != "training":
                raise UmlError(
                    f"run {self.path} drew its folds from the shards of its training, but those in {shards} are "
                    f"{'others' if self.data == 'other' else 'not all there'}: {NAME_SHARDS}"
                )
        else:
            self._check_known(name, shards)
        kind, manifests = type(self.recipe), self.recipe.manifests
        split = open_stream_split(self.config, kind, stream, name, manifests)
        check_dimensions(kind, split.manifest, f"split {name}")
        compared = split.manifest
        if tasks_only:
            self.tasks(split, stream)
            compared = compared.model_copy(update={"classes": self.recipe.manifests[stream].classes})
        check_stream(self.config, kind, stream, compared, manifests, f"split {name}")
        check_evaluation(self.config, split.manifest, self.sizes[stream])
        return split

    def _check_known(self, name: str, shards: Location) -> None:
        """Check that a data set has a split, and that it is that of the training unless another one was named."""
        known = [split.name for split in find_splits(shards)]
        if not known:
            raise UmlError(f"the shards of run {self.path}: {shards} contains no split: {NAME_SHARDS}")
        if name not in known and not isinstance(shards, Address):  # a URL cannot be listed
            held_out = [] if fold_of(self.config) is None else [f"{FOLD_SPLIT}, the held-out fold"]
            raise UmlError(f"there is no split {name!r} in {shards}: there is {', '.join([*known, *held_out])}")
        if self.data == "other" and not self.shards_given:
            raise UmlError(
                f"run {self.path} was trained on other shards than those in {shards}: name the data set by --shards"
            )

    def tasks(self, split: Split | Samples, stream: str | None = None) -> dict[str, tuple[int, ...]]:
        """Return the binary tasks that a split and the training data of a stream both name.

        Returns:
            Task -> numbers of the predicted classes that count as positive.

        Raises:
            UmlError: there is none.
        """
        trained, other = self.recipe.manifests[_known_stream(type(self.recipe), stream)], split.manifest
        found = {name: positive for name, positive in trained.tasks.items() if name in other.tasks}
        if not found:
            names = [", ".join(manifest.tasks) or "none" for manifest in (trained, other)]
            raise UmlError(
                f"split {other.split} has no binary task of the training ({names[0]}): it has {names[1]}; name the "
                "same tasks when you make the shards"
            )
        return found

    def stream(self, split: Split | Samples, stream: str | None = None) -> Stream:
        """Return a split in its own order, in the size of a stream and normalised as the training data are."""
        return evaluation_stream(self.config, split, self.sizes[stream or self.first_stream], self.statistics)


def load_run(
    path: str | Path,
    checkpoint: str = "best",
    device: torch.device | str | None = None,
    shards: str | Path | None = None,
    weights: Weights | None = None,
    settings: Sequence[str] = (),
    stream: str | None = None,
) -> Run:
    """Read a trained run, or exported weights. The shards of the training are not needed.

    Checkpoints of version 0.2.0 and earlier need them, since they do not state classes and statistics of the inputs.

    Args:
        path: the run folder, or the folder that `checkpoint.py export` wrote.
        checkpoint: "best", "best-NAME", "latest" or a name such as "step-000500", of a run folder.
        device: device of the networks; by default the first GPU, or the CPU without one.
        shards: folder or URL of the data set to open splits of: that of the stream, if it has moved since training, or
            another one of the same classes.
        weights: "trained" or "averaged" weights of the trained networks; by default those of the run's validations.
        settings: settings of the tables windows and evaluation that replace those of the training, such as
            "windows.stride=32".
        stream: stream whose data set `shards` is; by default the first.

    Raises:
        UmlError: the run or the checkpoint is missing or damaged, the run has no averaged weights, there is no such
            stream, a setting is not valid, or the checkpoint does not state its inputs and the shards of its training
            are missing or have changed.
    """
    path = Path(path)
    config, folder = _find(path, checkpoint)
    verify(folder)
    state = read_state(folder)
    config = validate(state.config, str(folder / "state.json")) if config is None else config
    config = _with_settings(config, settings)
    kind = recipe_class(config.recipe)
    config = _with_shards(config, _known_stream(kind, stream), shards)
    manifests = manifests_of(state, folder) or _manifests_of_training(config, state, path)
    recipe = kind(config, manifests)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    roles, weights = networks_of(recipe), weights or config.train.weights
    if weights == "averaged" and not averages_in(roles):
        raise UmlError(f"run {path} has no averaged weights, since train.ema was not set: use the trained ones")
    networks, lines = _networks(roles, folder)
    networks = {name: network.to(chosen) for name, network in networks.items()}
    sizes = stream_sizes(config, manifests)
    return Run(path, folder, state, config, recipe, networks, sizes, chosen, tuple(lines), weights, shards is not None)


def _find(path: Path, checkpoint: str) -> tuple[RunConfig | None, Path]:
    """Return the configuration of a run folder and the checkpoint in it, or None and a folder of exported weights."""
    if (path / "config.toml").is_file() or not (path / "state.json").is_file():
        reader = RunReader(path)
        return reader.config(), reader.checkpoint(checkpoint)
    if checkpoint not in ("best", path.name):
        raise UmlError(f"{path} is one checkpoint, not a run folder: leave out the name {checkpoint!r}")
    if (path / GRAPH_DESCRIPTION).is_file():
        raise UmlError(
            f"{path} contains a graph for other programs, see its README.md: use a run folder, or export the run with "
            "--to safetensors"
        )
    return None, path


def _manifests_of_training(config: RunConfig, state: RunState, path: Path) -> dict[str, Manifest]:
    """Return the manifests of a run whose checkpoint does not state them, from the shards of its training."""
    try:
        splits = open_splits(config)
    except ShardError as error:
        raise UmlError(
            f"the shards of run {path}, whose checkpoint states no classes and statistics: {error}; {NAME_SHARDS}"
        ) from None
    if (name := _changed(state, splits)) is not None:
        ids = config.streams[name].labelled_ids
        now = f"{splits[name].path.parent}, or another list than {ids}" if ids else str(splits[name].path.parent)
        raise UmlError(
            f"run {path} was trained on other shards than those in {now}: name the shards of the training by --shards"
        )
    return {name: split.manifest for name, split in splits.items()}


def _changed(state: RunState, splits: Mapping[str, Samples]) -> str | None:
    """Return the first stream whose samples are not those of the training."""
    digests = {name: split.manifest.digest for name, split in splits.items()}
    return next((name for name, digest in digests.items() if state.data.get(name, digest) != digest), None)


def _with_settings(config: RunConfig, settings: Sequence[str]) -> RunConfig:
    """Return the configuration with other settings of how the run is evaluated."""
    for setting in settings:
        if not setting.startswith(EVALUATION_TABLES):
            raise UmlError(f"argument {setting!r} would change the trained run: set windows.KEY or evaluation.KEY only")
    tree = config.model_dump(mode="json", exclude_none=True)
    return validate(apply_overrides(tree, settings), "command line") if settings else config


def _known_stream(kind: type[Recipe], stream: str | None) -> str:
    """Return a stream of a recipe by its name; by default the first."""
    if stream is not None and stream not in kind.streams:
        raise UmlError(f"there is no stream {stream!r}: there is {', '.join(kind.streams)}")
    return stream or next(iter(kind.streams))


def _with_shards(config: RunConfig, moved: str, shards: str | Path | None) -> RunConfig:
    """Return the configuration with another location for every stream that reads the data set of the named one."""
    if shards is None:
        return config
    old = config.streams[moved].shards
    streams = {
        name: stream.model_copy(update={"shards": str(shards)}) if stream.shards == old else stream
        for name, stream in config.streams.items()
    }
    return config.model_copy(update={"streams": streams})


def _networks(roles: Mapping[str, Network], checkpoint: Path) -> tuple[dict[str, nn.Module], list[str]]:
    """Read the networks of a checkpoint; also return lines for the user on how they were read."""
    states, networks, lines = read_networks(checkpoint, optimizer=False), {}, []
    for name in roles:
        source = trained_source(roles, name)
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
