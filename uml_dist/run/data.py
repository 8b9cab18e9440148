"""Opens the data of a run: its splits and streams, checked against one another."""

from collections.abc import Mapping
from pathlib import Path

from uml_shards.address import parse_location
from uml_shards.format.manifest import Manifest, Statistics
from uml_shards.read.part import part_of
from uml_shards.read.plan import InOrder, Plan
from uml_shards.read.samples import Samples
from uml_shards.read.sampling import WeightedPlan, groups_of_classes, groups_of_sets
from uml_shards.read.split import Split, open_split
from uml_shards.read.stream import Stream
from uml_shards.storage.cache import Cache

from ..config.schema import RunConfig
from ..errors import UmlError
from ..recipes import Recipe, StreamContract

Size = tuple[int, ...]
"""(H, W) of images, or (H, W, D) of patches of volumes."""


def open_splits(config: RunConfig) -> dict[str, Samples]:
    """Open the samples of every stream: a split, those of several data sets as one, or a part of it."""
    found: dict[str, Samples] = {}
    for name, stream in config.streams.items():
        sets = [_open(config, shards, stream.split) for shards in (stream.shards, *stream.more_shards)]
        whole = Samples(sets)
        ids = None if stream.labelled_ids is None else Path(stream.labelled_ids)
        found[name] = whole if stream.part == "all" else part_of(whole, stream.part, ids)
    return found


def open_stream_split(config: RunConfig, name: str, split: str) -> Split:
    """Open a split of a stream's first data set."""
    return _open(config, config.streams[name].shards, split)


def _open(config: RunConfig, shards: str, split: str) -> Split:
    """Open a split of shards in a folder or behind a URL."""
    data = config.data
    return open_split(parse_location(shards) / split, Cache(data.cache, data.cache_gigabytes), data.verify)


def stream_sizes(config: RunConfig, splits: Mapping[str, Samples]) -> dict[str, Size]:
    """Return the size of every stream's images, or of the patches of its volumes.

    Raises:
        UmlError: neither the configuration nor the manifests state one, or it does not fit such data.
    """
    sizes: dict[str, Size] = {}
    for name, split in splits.items():
        stated = config.streams[name].size
        key = f"streams.{name}.size" if stated is not None else "data.size"
        stated = config.data.size if stated is None else stated
        if stated is not None:
            sizes[name] = stated_size(stated, split.manifest, key)
    left = {split.manifest.size for name, split in splits.items() if name not in sizes}
    if len(left) > 1 or None in left:
        raise UmlError("the images of the shards differ in size: set data.size")
    return {name: sizes.get(name) or split.manifest.size or () for name, split in splits.items()}


def stated_size(size: int | Size, manifest: Manifest, key: str) -> Size:
    """Return a size of the configuration for the data of a manifest.

    Raises:
        UmlError: it is for images and the data are volumes, or the reverse.
    """
    volumes = manifest.dimensions == 3
    if volumes != isinstance(size, tuple):
        what = f"volumes: set {key} = [H, W, D]" if volumes else f"images: set {key} to one number"
        raise UmlError(f"{key} = {list(size) if isinstance(size, tuple) else size} does not fit shards of {what}")
    return size if isinstance(size, tuple) else (size, size)


def make_plan(config: RunConfig, name: str, split: Samples, count: int) -> Plan | WeightedPlan:
    """Return the order in which a stream yields the samples of its split.

    Args:
        config: the run's configuration.
        name: name of the stream.
        split: its samples.
        count: samples of the stream in a global batch.

    Raises:
        ShardError: its sampling does not fit the classes or the samples.
    """
    stream, sizes, classes = config.streams[name], split.sizes(), split.manifest.classes
    common = {"slots": count, "seed": config.train.seed, "stream": name, "window": config.data.window}
    if stream.sampling != "epoch":
        return WeightedPlan(groups_of_classes(split.labels(), sizes, classes, stream.sampling), **common)
    if stream.weights is not None and stream.more_shards:
        return WeightedPlan(groups_of_sets(split.sets(), stream.weights), **common)
    return Plan(sizes, **common)


def make_streams(
    config: RunConfig,
    splits: Mapping[str, Samples],
    counts: Mapping[str, int],
    sizes: Mapping[str, Size],
    statistics: Statistics,
) -> dict[str, Stream]:
    """Return streams of the configuration, all normalised by the same statistics.

    Args:
        config: the run's configuration.
        splits: the samples of each stream.
        counts: the streams to make -> their samples in a global batch.
        sizes: size of each stream's images or patches.
        statistics: statistics of the images.
    """
    return {
        name: Stream(
            split=splits[name],
            plan=make_plan(config, name, splits[name], count),
            size=sizes[name],
            statistics=statistics,
            augment=config.streams[name].augment or config.data.augment,
            on_bad_sample=config.data.on_bad_sample,
        )
        for name, count in counts.items()
    }


def input_statistics(config: RunConfig, manifest: Manifest) -> Statistics:
    """Return mean and standard deviation by which every image of a run is normalised, after it is scaled to [0, 1].

    Args:
        config: the run's configuration.
        manifest: manifest of the first stream's training data.
    """
    if config.data.normalise == "unit":
        return Statistics(mean=(0.0,) * manifest.channels, std=(1.0,) * manifest.channels)
    return manifest.statistics


def evaluation_stream(config: RunConfig, split: Split, size: Size, statistics: Statistics) -> Stream:
    """Return a split in its own order, each sample once, without augmentation; volumes are read whole.

    Args:
        config: the run's configuration.
        split: the split.
        size: size of the images; of volumes, that of placeholders only.
        statistics: statistics of the training data, by which images are normalised.
    """
    whole = split.manifest.dimensions == 3
    plan = InOrder(len(split))
    return Stream(split, plan, size, statistics, on_bad_sample=config.data.on_bad_sample, whole=whole)


def check_dimensions(kind: type[Recipe], manifest: Manifest, name: str) -> None:
    """Check that shards hold images or volumes, whichever the recipe is for.

    Raises:
        UmlError: they hold the other.
    """
    if manifest.dimensions != kind.dimensions:
        taken, held = (
            "volumes" if dimensions == 3 else "images" for dimensions in (kind.dimensions, manifest.dimensions)
        )
        raise UmlError(f"recipe {kind.name} is for {taken}, the shards of {name} hold {held}")


def check_stream(
    config: RunConfig, kind: type[Recipe], stream: str, manifest: Manifest, manifests: Mapping[str, Manifest], name: str
) -> None:
    """Check that a split has the classes that the recipe's contract for a stream and the configuration require.

    Args:
        config: the run's configuration.
        kind: the recipe.
        stream: the stream whose contract holds.
        manifest: the manifest to check.
        manifests: the manifests of all streams.
        name: name of the stream or split, for errors.

    Raises:
        UmlError: classes are missing, their names or numbers differ, or the numbers of channels differ.
    """
    first = manifests[next(iter(kind.streams))]
    if manifest.channels != first.channels:
        raise UmlError(
            f"the number of channels is {manifest.channels} in the images of {name} and {first.channels} in those "
            "of training: make the shards of one of them again"
        )
    stated_by = _stated_by(kind, stream)
    contract = kind.streams[stream]
    required = {
        "classes": (2 if contract.labels else 0, "image classes", contract.labels is not False),
        "mask_classes": (2 if contract.masks == "exclusive" else 0, "pixel classes", contract.masks != "none"),
        "mask_names": (1 if contract.masks == "named" else 0, "named masks", contract.masks != "none"),
    }
    for key, (least, what, compared) in required.items():
        classes: tuple[str, ...] = getattr(manifest, key)
        if len(classes) < least:
            needs = "two or more" if least > 1 else "one or more"
            raise UmlError(
                f"recipe {kind.name} needs {needs} {what} in stream {stream}: the shards of {name} have {len(classes)}"
            )
        stated = getattr(config.model, key, None)
        if compared and stated is not None and stated != len(classes):
            raise UmlError(
                f"model.{key} = {stated}, but the shards of {name} have {len(classes)} ({', '.join(classes)}): "
                "change one of them"
            )
        expected = getattr(manifests[stated_by], key)
        if compared and classes != expected:
            raise UmlError(f"the {key} of {name} are {classes}, but those of stream {stated_by} are {expected}")


def _stated_by(kind: type[Recipe], stream: str) -> str:
    """Return the stream whose classes a stream must have: the first one, or itself if its contract is another."""
    first = next(iter(kind.streams))
    contract = kind.streams[stream]
    return first if contract in (StreamContract(), kind.streams[first]) else stream
