"""Opens the data of a run: its splits and streams, checked against one another."""

from collections.abc import Mapping
from pathlib import Path

from uml_shards.address import parse_location
from uml_shards.format.manifest import Manifest, Statistics
from uml_shards.read.joined import JoinedSplit, Samples
from uml_shards.read.part import part_of
from uml_shards.read.plan import InOrder, Plan
from uml_shards.read.sampling import WeightedPlan, groups_of_classes, groups_of_sets
from uml_shards.read.split import Split, open_split
from uml_shards.read.stream import Stream
from uml_shards.storage.cache import Cache

from ..config.schema import RunConfig
from ..errors import UmlError
from ..recipes import Recipe


def open_splits(config: RunConfig) -> dict[str, Samples]:
    """What every stream draws from: a split, or those of several data sets as one, or a part of it."""
    found: dict[str, Samples] = {}
    for name, stream in config.streams.items():
        sets = [_open(config, shards, stream.split) for shards in (stream.shards, *stream.more_shards)]
        whole = JoinedSplit(sets) if stream.more_shards else sets[0]
        ids = None if stream.labelled_ids is None else Path(stream.labelled_ids)
        found[name] = whole if stream.part == "all" else part_of(whole, stream.part, ids)
    return found


def open_stream_split(config: RunConfig, name: str, split: str) -> Split:
    """A split of a stream's first shards."""
    return _open(config, config.streams[name].shards, split)


def _open(config: RunConfig, shards: str, split: str) -> Split:
    """A split of shards that lie in a folder or behind a URL."""
    return open_split(parse_location(shards) / split, Cache(config.data.cache, config.data.cache_gigabytes))


def image_size(config: RunConfig, splits: Mapping[str, Samples]) -> tuple[int, ...]:
    """(H, W) of every image of the run, or (H, W, D) of every patch.

    Raises:
        UmlError: neither the configuration nor the manifests state one, or it is not for such data.
    """
    size = config.data.size
    volumes = any(split.manifest.dimensions == 3 for split in splits.values())
    if size is not None and volumes != isinstance(size, tuple):
        what = "volumes: set data.size = [H, W, D]" if volumes else "images: set data.size to one number"
        raise UmlError(f"data.size = {size} does not fit shards of {what}")
    if size is not None:
        return size if isinstance(size, tuple) else (size, size)
    sizes = {split.manifest.size for split in splits.values()}
    if len(sizes) != 1 or None in sizes:
        raise UmlError("the images of the shards differ in size: set data.size")
    return next(size for size in sizes if size is not None)


def make_plan(config: RunConfig, name: str, split: Samples) -> Plan | WeightedPlan:
    """The order in which a stream gives the samples of its split.

    Raises:
        ShardError: its sampling does not fit the classes or the samples.
    """
    stream, sizes, classes = config.streams[name], split.sizes(), split.manifest.classes
    common = {"slots": stream.count, "seed": config.train.seed, "stream": name, "window": config.data.window}
    if stream.sampling != "epoch":
        return WeightedPlan(groups_of_classes(split.labels(), sizes, classes, stream.sampling), **common)
    if stream.weights is not None and stream.more_shards:
        return WeightedPlan(groups_of_sets(split.sets(), stream.weights), **common)
    return Plan(sizes, **common)


def make_streams(
    config: RunConfig, splits: Mapping[str, Samples], size: tuple[int, ...], statistics: Statistics
) -> dict[str, Stream]:
    """Every stream of the configuration, of one size and normalised alike."""
    return {
        name: Stream(
            split=splits[name],
            plan=make_plan(config, name, splits[name]),
            size=size,
            statistics=statistics,
            augment=config.data.augment,
            on_bad_sample=config.data.on_bad_sample,
        )
        for name in config.streams
    }


def input_statistics(config: RunConfig, manifest: Manifest) -> Statistics:
    """Mean and standard deviation by which every image of a run is normalised, after it is scaled to [0, 1].

    Args:
        config: of the run.
        manifest: of the first stream's training data.
    """
    if config.data.normalise == "unit":
        return Statistics(mean=(0.0,) * manifest.channels, std=(1.0,) * manifest.channels)
    return manifest.statistics


def evaluation_stream(config: RunConfig, split: Split, size: tuple[int, ...], statistics: Statistics) -> Stream:
    """A split in its own order, each sample once, as it is; normalised as the training data are."""
    return Stream(split, InOrder(len(split)), size, statistics, on_bad_sample=config.data.on_bad_sample)


def check_dimensions(kind: type[Recipe], manifest: Manifest, name: str) -> None:
    """A recipe is for images or for volumes.

    Raises:
        UmlError: the shards hold the other.
    """
    if manifest.dimensions != kind.dimensions:
        taken, held = (
            "volumes" if dimensions == 3 else "images" for dimensions in (kind.dimensions, manifest.dimensions)
        )
        raise UmlError(f"recipe {kind.name} is for {taken}, the shards of {name} hold {held}")


def check_classes(config: RunConfig, manifest: Manifest, first: Manifest, name: str) -> None:
    """The class counts of the configuration, where it states them, and those of all splits must agree.

    Args:
        config: of the run.
        manifest: to be checked.
        first: the manifest of the first stream.
        name: of the stream or split, for errors.

    Raises:
        UmlError: they do not, or the numbers of channels differ.
    """
    for key, classes in (("classes", manifest.classes), ("mask_classes", manifest.mask_classes)):
        stated = getattr(config.model, key)
        if stated is not None and stated != len(classes):
            raise UmlError(
                f"model.{key} = {stated}, but the shards of {name} have {len(classes)} ({', '.join(classes)}): "
                "change one of them"
            )
        if manifest.channels != first.channels:
            raise UmlError(
                f"the number of channels is {manifest.channels} in the images of {name} and {first.channels} in those "
                "of training: make the shards of one of them anew"
            )
        if classes != getattr(first, key):
            raise UmlError(f"the {key} of {name} are {classes}, those of the first stream {getattr(first, key)}")
