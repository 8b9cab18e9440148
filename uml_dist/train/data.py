"""From the configuration to batches: streams, the positions that a rank reads, micro batches."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import gcd
from pathlib import Path

from uml_shards.address import parse_location
from uml_shards.format.manifest import Manifest, Statistics
from uml_shards.read.joined import JoinedSplit, Samples
from uml_shards.read.part import part_of
from uml_shards.read.plan import InOrder, Plan, owned_slots
from uml_shards.read.sampling import WeightedPlan, groups_of_classes, groups_of_sets
from uml_shards.read.split import Split, open_split
from uml_shards.read.stream import Stream
from uml_shards.storage.cache import Cache

from ..config.schema import RunConfig
from ..errors import UmlError


@dataclass(frozen=True)
class RankBatch:
    """What one rank takes of each global batch.

    Attributes:
        rank: this one.
        ranks: how many there are.
        accumulation: micro batches in a step.
        counts: samples of each stream in a global batch.
    """

    rank: int
    ranks: int
    accumulation: int
    counts: Mapping[str, int]

    @property
    def micro_batch(self) -> int:
        """Samples of all streams in one micro batch of this rank."""
        return sum(self.counts.values()) // (self.ranks * self.accumulation)

    def micro_batches(self, step: int, first_positions: Mapping[str, int]) -> Iterator[dict[str, list[int]]]:
        """The positions of each micro batch of a step that begins at given positions of the streams."""
        for micro in range(self.accumulation):
            request = {}
            for name, count in self.counts.items():
                slots = owned_slots(count, self.rank, self.ranks)
                size = len(slots) // self.accumulation
                start = first_positions[name] + step * count + slots.start + micro * size
                request[name] = list(range(start, start + size))
            yield request


def rank_batch_of(config: RunConfig, streams: tuple[str, ...], rank: int, ranks: int) -> RankBatch:
    """A rank's share of the global batch of some streams, accumulated no more than `train.micro_batch` asks for.

    Raises:
        UmlError: the ranks do not divide the samples, or no accumulation fits.
    """
    counts = {name: config.streams[name].count for name in streams}
    for name, count in counts.items():
        if count % ranks:
            valid = ", ".join(str(number) for number in range(1, count + 1) if count % number == 0)
            raise UmlError(
                f"streams.{name}.count = {count} cannot be shared by {ranks} ranks: use {valid} ranks, or another count"
            )
    limit = config.train.micro_batch
    per_rank = [count // ranks for count in counts.values()]
    for accumulation in range(1, min(per_rank) + 1):
        fits = limit is None or sum(per_rank) // accumulation <= limit
        if fits and all(count % accumulation == 0 for count in per_rank):
            return RankBatch(rank, ranks, accumulation, counts)
    raise UmlError(
        f"train.micro_batch = {limit} is too small: {sum(per_rank)} samples per rank in {len(counts)} streams "
        f"split into no fewer than {sum(per_rank) // gcd(*per_rank)} at once"
    )


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


def loader_workers(config: RunConfig, on_gpu: bool, local_ranks: int) -> int:
    """Processes per rank that read ahead."""
    if config.data.workers != "auto":
        return config.data.workers
    cores = (os.cpu_count() or 1) // max(local_ranks, 1)
    return min(4, max(cores - 1, 1)) if on_gpu else 0
