"""Opens the data of a run: its splits and streams, checked against one another."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from uml_shards.address import parse_location
from uml_shards.format.manifest import Manifest, Statistics
from uml_shards.read.folds import Fold, draw_folds
from uml_shards.read.names import differing_names, states_masks
from uml_shards.read.part import part_of
from uml_shards.read.plan import InOrder, Plan
from uml_shards.read.samples import Samples
from uml_shards.read.sampling import WeightedPlan, groups_of_classes, groups_of_sets
from uml_shards.read.split import Split, open_split
from uml_shards.read.stream import Stream
from uml_shards.storage.cache import Cache

from ..config.reading import FOLD_SPLIT, Augment
from ..config.schema import RunConfig
from ..errors import UmlError
from ..evaluate.components import NEEDS_CLASSES
from ..evaluate.windows import Windows
from ..recipes import Recipe, StreamContract, recipe_class

NAME_THEM = "name them when you make the shards, such as by --set classes=benign,malignant"
"""The remedy where shards state no classes."""

Size = tuple[int, ...]
"""(H, W) of images, or (H, W, D) of patches of volumes."""


def open_splits(config: RunConfig) -> dict[str, Samples]:
    """Open the samples of every stream: a split, those of several data sets as one, or a part of it.

    Without the held-out fold, if there are folds. A stream whose shards state no names has those of the stream that it
    follows. Masks that its contract does not need are never read.
    """
    kind, found = recipe_class(config.recipe), {}
    wholes = {name: _open_whole(config, name) for name in config.streams}
    drawn = _draw_folds(config, wholes)
    for name, stream in config.streams.items():
        ids = None if stream.labelled_ids is None else Path(stream.labelled_ids)
        found[name] = wholes[name] if stream.part == "all" else part_of(wholes[name], stream.part, ids)
        if stream.part == "labelled" and name in kind.streams and _learns_from_masks_only(kind.streams[name]):
            _refuse_unmasked(found[name], name, kind)
        if (fold := fold_of(config)) is not None:
            found[name] = fold.training(found[name], drawn[name])
        if name in kind.streams and kind.streams[name].masks == "none":
            found[name] = found[name].without_masks()
    manifests = {name: samples.manifest for name, samples in found.items()}
    return {
        name: _named(samples, kind, name, manifests) if name in kind.streams else samples
        for name, samples in found.items()
    }


def fold_of(config: RunConfig) -> Fold | None:
    """Return the fold that a run holds out; None without folds."""
    data = config.data
    return Fold(data.folds, data.fold, data.fold_seed) if data.folds else None


def evaluated_split(config: RunConfig, name: str) -> str:
    """Return the name that the results of a split of the first stream have, such as train-fold-0-of-3 for `fold`."""
    fold, first = fold_of(config), next(iter(recipe_class(config.recipe).streams))
    return name if fold is None or name != FOLD_SPLIT else fold.split_name(config.streams[first].split)


def _open_whole(config: RunConfig, name: str) -> Samples:
    """Open the split of a stream in all of its data sets."""
    stream = config.streams[name]
    return Samples([_open(config, shards, stream.split) for shards in (stream.shards, *stream.more_shards)])


def _draw_folds(config: RunConfig, wholes: Mapping[str, Samples]) -> dict[str, NDArray[np.int64]]:
    """Return the fold (N,) of each sample of every stream, drawn for all streams together; {} without folds."""
    if not config.data.folds:
        return {}
    splits = [split for samples in wholes.values() for split in samples.splits]
    drawn = iter(draw_folds(splits, config.data.folds, config.data.fold_seed))
    return {name: np.concatenate([next(drawn) for _ in samples.splits]) for name, samples in wholes.items()}


def _learns_from_masks_only(contract: StreamContract) -> bool:
    return contract.masks in ("exclusive", "named") and not contract.labels and not contract.either


def _refuse_unmasked(part: Samples, stream: str, kind: type[Recipe]) -> None:
    """Refuse samples that count as labelled since they are listed or have a label, but have no mask."""
    unmasked = np.flatnonzero(~part.masked())
    if unmasked.size:
        raise UmlError(
            f"{unmasked.size} of the {len(part)} labelled samples of stream {stream} have no mask, first "
            f"{part.keys()[unmasked[0]]!r}, but recipe {kind.name} learns from masks: list only samples with a mask in "
            f"streams.{stream}.labelled_ids"
        )


def open_stream_split(
    config: RunConfig, kind: type[Recipe], name: str, split: str, manifests: Mapping[str, Manifest]
) -> Split | Samples:
    """Open a split of a stream's first data set, with the names of the training data where it states none.

    With folds, the split `fold` is the held-out fold of all of the stream's data sets, whatever part of them is learnt.

    Args:
        config: the run's configuration.
        kind: the recipe.
        name: name of the stream.
        split: name of the split.
        manifests: the manifests of all streams.
    """
    fold = fold_of(config)
    if fold is None or split != FOLD_SPLIT:
        return _named(_open(config, config.streams[name].shards, split), kind, name, manifests)
    wholes = {stream: _open_whole(config, stream) for stream in config.streams}
    return _named(fold.held_out(wholes[name], _draw_folds(config, wholes)[name]), kind, name, manifests)


def _open(config: RunConfig, shards: str, split: str) -> Split:
    """Open a split of shards in a folder or behind a URL."""
    data = config.data
    return open_split(parse_location(shards) / split, Cache(data.cache, data.cache_gigabytes), data.verify)


Opened = TypeVar("Opened", Samples, Split, Split | Samples)


def _named(samples: Opened, kind: type[Recipe], stream: str, manifests: Mapping[str, Manifest]) -> Opened:
    """Return samples with the names of the stream that states them, of what the contract compares."""
    stated_by = _stated_by(kind, stream)
    if stated_by not in manifests:
        return samples
    contract = kind.streams[stream]
    return samples.with_names(manifests[stated_by], contract.labels is not False, contract.masks != "none")


def stream_sizes(config: RunConfig, manifests: Mapping[str, Manifest]) -> dict[str, Size]:
    """Return the size of every stream's images, or of the patches of its volumes.

    Raises:
        UmlError: neither the configuration nor the manifests state one, or it does not fit such data.
    """
    sizes: dict[str, Size] = {}
    for name, manifest in manifests.items():
        stated = config.streams[name].size
        key = f"streams.{name}.size" if stated is not None else "data.size"
        stated = config.data.size if stated is None else stated
        if stated is not None:
            sizes[name] = stated_size(stated, manifest, key)
    left = {manifest.size for name, manifest in manifests.items() if name not in sizes}
    if len(left) > 1 or None in left:
        raise UmlError("the images of the shards differ in size: set data.size")
    return {name: sizes.get(name) or manifest.size or () for name, manifest in manifests.items()}


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


def augmentation_of(config: RunConfig, name: str, manifest: Manifest) -> Augment:
    """Return the augmentation of a stream.

    Raises:
        UmlError: the stream has images, and it is for volumes.
    """
    stated = config.streams[name].augment
    augment = stated or config.data.augment
    if augment == "axial" and manifest.dimensions == 2:
        key = f"streams.{name}.augment" if stated else "data.augment"
        raise UmlError(f"{key} = 'axial' is for volumes, but the shards of stream {name} hold images: use 'light'")
    return augment


def make_streams(
    config: RunConfig,
    splits: Mapping[str, Samples],
    counts: Mapping[str, int],
    sizes: Mapping[str, Size],
    statistics: Statistics,
) -> dict[str, Stream]:
    """Return streams of the configuration, all normalised by the same statistics.

    Images are augmented as they are read, volumes in batches: see `uml_dist.train.augmentation`.

    Args:
        config: the run's configuration.
        splits: the samples of each stream.
        counts: the streams to make -> their samples in a global batch.
        sizes: size of each stream's images or patches.
        statistics: statistics of the images.
    """
    augment = {name: augmentation_of(config, name, splits[name].manifest) for name in counts}
    return {
        name: Stream(
            split=splits[name],
            plan=make_plan(config, name, splits[name], count),
            size=sizes[name],
            statistics=statistics,
            augment="none" if splits[name].manifest.dimensions == 3 else augment[name],
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


def evaluation_stream(config: RunConfig, split: Split | Samples, size: Size, statistics: Statistics) -> Stream:
    """Return a split in its own order, each sample once, without augmentation.

    Volumes are read whole, and so are images that are predicted by windows.

    Args:
        config: the run's configuration.
        split: the split.
        size: size of the images; of those that are read whole, that of the windows and of placeholders.
        statistics: statistics of the training data, by which images are normalised.
    """
    plan, whole = InOrder(len(split)), reads_whole(config, split.manifest)
    return Stream(split, plan, size, statistics, on_bad_sample=config.data.on_bad_sample, whole=whole)


def reads_whole(config: RunConfig, manifest: Manifest) -> bool:
    """Whether evaluations read the samples of a split in their stored size."""
    return manifest.dimensions == 3 or config.windows.apply_to(manifest.dimensions)


def check_evaluation(config: RunConfig, manifest: Manifest, size: Size) -> None:
    """Check that `[windows]` and `[evaluation]` fit a split.

    Args:
        config: the run's configuration.
        manifest: the split's manifest.
        size: size of its images or windows.

    Raises:
        UmlError: they do not.
    """
    if config.windows.apply_to(manifest.dimensions):
        Windows.of(config.windows, size)
    if config.evaluation.largest_component and not manifest.mask_classes:
        raise UmlError(
            f"{NEEDS_CLASSES}, but the masks of {manifest.dataset} {manifest.split} have none or overlap: "
            "set it to false"
        )


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
    contract, stated_by = kind.streams[stream], _stated_by(kind, stream)
    compared = {"classes": contract.labels is not False, "masks": contract.masks != "none"}
    _check_names(kind, stream, manifest, name)
    for key in ("classes", "mask_classes"):
        names, stated = getattr(manifest, key), getattr(config.model, key, None)
        if compared["classes" if key == "classes" else "masks"] and names and stated not in (None, len(names)):
            raise UmlError(
                f"model.{key} = {stated}, but the shards of {name} have {len(names)} ({', '.join(names)}): "
                "change one of them"
            )
    expected = manifests[stated_by]
    if field := differing_names(manifest, expected, **compared):
        found, wanted = getattr(manifest, field), getattr(expected, field)
        raise UmlError(f"the {field} of {name} are {found}, but those of stream {stated_by} are {wanted}")


def _check_names(kind: type[Recipe], stream: str, manifest: Manifest, name: str) -> None:
    """Check that a manifest states the names of classes and masks that the contract of a stream requires."""
    contract = kind.streams[stream]
    required = (
        ("classes", 2 if contract.labels else 0, "image classes", "two or more"),
        ("mask_classes", 2 if contract.masks == "exclusive" else 0, "pixel classes", "two or more"),
        ("mask_names", 1 if contract.masks == "named" else 0, "named masks", "one or more"),
    )
    for field, least, what, number in required:
        found = len(getattr(manifest, field))
        unknown = not (manifest.classes if field == "classes" else states_masks(manifest))
        if found < least and not (contract.either and unknown):
            others = manifest.mask_classes + manifest.mask_names if field != "classes" else ()
            kept = f"{found}, but masks of {', '.join(others)}" if others and not found else f"{found}: {NAME_THEM}"
            raise UmlError(
                f"recipe {kind.name} needs {number} {what} in stream {stream}: the shards of {name} have {kept}"
            )
    if contract.either and not manifest.classes and not states_masks(manifest):
        raise UmlError(
            f"recipe {kind.name} needs image classes, pixel classes or both in stream {stream}: the shards of {name} "
            f"have neither: {NAME_THEM}"
        )


def check_truth(kind: type[Recipe], manifests: Mapping[str, Manifest]) -> None:
    """Check that the first stream has something to learn from, if its contract requires labels or masks.

    Raises:
        UmlError: none of its samples has a label or a mask.
    """
    first = next(iter(kind.streams))
    contract, manifest = kind.streams[first], manifests[first]
    supervised = contract.labels or contract.masks in ("exclusive", "named")
    if _learns_from_masks_only(contract) and manifest.labelled and not manifest.masked:
        raise UmlError(f"no sample of stream {first} has a mask, from which recipe {kind.name} learns: add masks")
    if supervised and not manifest.labelled and not manifest.masked:
        raise UmlError(
            f"no sample of stream {first} has a label or a mask, so there is nothing to learn: add shards that have "
            f"some by streams.{first}.more_shards"
        )


def _stated_by(kind: type[Recipe], stream: str) -> str:
    """Return the stream whose classes a stream must have: the first one, or itself if its contract is another."""
    first = next(iter(kind.streams))
    contract = kind.streams[stream]
    return first if contract in (StreamContract(), kind.streams[first]) else stream
