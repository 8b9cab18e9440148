"""Weighted plans: sampling from several groups by weight. Like `Plan`, pure functions of the position.

A group is a class of a split, or one of several data sets. Steps are divided into blocks of BLOCK steps. In every
block, each slot draws from each group exactly in proportion to its weight. All slots follow the same permutation of the
block, with evenly spaced offsets, so a global batch contains the groups in these proportions too, up to two samples of
each group. The samples of a group follow the group's own `Plan` with the same slots, in which every sample of the group
occurs once per pass. Small groups have more passes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ShardError
from ..keyed import keyed_permutation
from .plan import Plan

BLOCK = 1024
"""Steps after which every slot has drawn from each group exactly by weight; weights are rounded to 1 / BLOCK."""


@dataclass(frozen=True)
class Group:
    """A group of samples that share one weight.

    Attributes:
        name: name of the group; part of its random key.
        numbers: numbers of the samples, ascending.
        shard_samples: number of the group's samples in each shard, in the order of `numbers`; may omit empty shards.
        weight: total weight of the group relative to the other groups.
    """

    name: str
    numbers: NDArray[np.int64] = field(repr=False)
    shard_samples: Sequence[int]
    weight: float


class WeightedPlan:
    """The order of one stream whose samples are drawn from groups by weight.

    Args:
        groups: groups to draw from; groups of weight 0 are ignored.
        slots: number of samples of this stream in each global batch.
        seed: the run's random seed.
        stream: name of the stream.
        window: number of samples of a group within which a slot shuffles.

    Raises:
        ShardError: no group has a weight, a weight is negative, not finite or below 1 / BLOCK of the total, or a group
            with a weight has no samples.
    """

    def __init__(
        self, groups: Sequence[Group], slots: int, seed: int = 0, stream: str = "train", window: int = 256
    ) -> None:
        self.groups = tuple(group for group in groups if group.weight != 0)
        self.slots = slots
        self.seed = seed
        self.stream = stream
        self.window = window
        self.samples = sum(len(group.numbers) for group in self.groups)
        self._quotas = _quotas(self.groups, stream)
        self._ends = np.cumsum(self._quotas)
        self._plans = [
            Plan([size for size in group.shard_samples if size], slots, seed, f"{stream}/{group.name}", window)
            for group in self.groups
        ]
        self._block = lru_cache(maxsize=4 * slots)(self._draws_of_block)

    def __reduce__(self) -> tuple[type["WeightedPlan"], tuple[Any, ...]]:
        return WeightedPlan, (self.groups, self.slots, self.seed, self.stream, self.window)

    def epoch(self, step: int) -> int:
        """Return the epoch of a step. An epoch has as many draws as there are samples."""
        return step * self.slots // self.samples

    def sample(self, position: int) -> int:
        """Return the number of the sample at a position, step * slots + slot, from 0."""
        step, slot = divmod(position, self.slots)
        block, inside = divmod(step, BLOCK)
        groups, earlier = self._block(block, slot)
        group = int(groups[inside])
        draw = block * int(self._quotas[group]) + int(earlier[inside])
        return int(self.groups[group].numbers[self._plans[group].sample(draw * self.slots + slot)])

    def _draws_of_block(self, block: int, slot: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return, for each step of a block, the slot's group and the slot's earlier draws from it in the block."""
        order = keyed_permutation(BLOCK, self.seed, self.stream, "groups", block)
        turn = int(keyed_permutation(self.slots, self.seed, self.stream, "turns", block)[slot])
        place = (order + turn * BLOCK // self.slots) % BLOCK
        groups = np.searchsorted(self._ends, place, side="right")
        earlier = np.zeros(BLOCK, dtype=np.int64)
        for group, quota in enumerate(self._quotas):
            earlier[groups == group] = np.arange(quota)
        return groups, earlier


def groups_of_classes(
    labels: ArrayLike,
    shard_samples: Sequence[int],
    classes: Sequence[str],
    weights: Mapping[str, float] | Literal["balanced"],
) -> list[Group]:
    """Group the samples of a split by class. Unlabelled samples form a group that keeps its share of all samples.

    Args:
        labels: (N,) class numbers in manifest order; -1 = not labelled.
        shard_samples: number of samples in each shard.
        classes: names of the classes, in label order.
        weights: class name -> weight relative to the other classes; classes without a weight are not drawn.
            "balanced" draws all classes that have samples equally often.

    Raises:
        ShardError: there are no labels, or a weight is negative or belongs to an unknown class.
    """
    labels = np.asarray(labels)
    if not len(classes) or not (labels >= 0).any():
        raise ShardError("sampling by class needs labels, but the shards have none: use sampling epoch")
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    if isinstance(weights, str):
        weights = {name: 1.0 for name, count in zip(classes, counts, strict=True) if count}
    for name in weights:
        if name not in classes:
            raise ShardError(f"sampling gives a weight to {name!r}: the classes are {', '.join(classes)}")
    total = sum(weights.values())
    if not all(weight >= 0 for weight in weights.values()) or not 0 < total < math.inf:
        raise ShardError("sampling by class: no weight may be negative, and at least one must be above 0")
    labelled = counts.sum() / len(labels)
    found = [
        _group(name, labels == number, shard_samples, weights.get(name, 0.0) / total * labelled)
        for number, name in enumerate(classes)
    ]
    return [*found, _group("unlabelled", labels < 0, shard_samples, 1 - labelled)]


def groups_of_sets(shard_samples: Sequence[Sequence[int]], weights: Sequence[float]) -> list[Group]:
    """Group the samples by data set. The samples of the data sets are numbered consecutively.

    Args:
        shard_samples: for each data set, the number of samples in each shard.
        weights: weight of each data set relative to the others.
    """
    groups, first = [], 0
    for number, (sizes, weight) in enumerate(zip(shard_samples, weights, strict=True)):
        count = sum(sizes)
        groups.append(Group(f"set {number}", np.arange(first, first + count), sizes, weight))
        first += count
    return groups


def _group(name: str, chosen: NDArray[np.bool_], shard_samples: Sequence[int], weight: float) -> Group:
    ends = np.cumsum(shard_samples)[:-1]
    sizes = [int(part.sum()) for part in np.split(chosen, ends)]
    return Group(name, np.flatnonzero(chosen), sizes, weight)


def _quotas(groups: Sequence[Group], stream: str) -> NDArray[np.int64]:
    """Return the draws of each group in a block: weights rounded by the largest remainder method."""
    weights = np.asarray([group.weight for group in groups], dtype=np.float64)
    if not len(groups) or not np.isfinite(weights).all() or (weights < 0).any():
        raise ShardError(f"stream {stream}: no sampling weight may be negative, and at least one must be above 0")
    exact = weights / weights.sum() * BLOCK
    quotas = np.floor(exact).astype(np.int64)
    for group in np.argsort(quotas - exact, kind="stable")[: BLOCK - int(quotas.sum())]:
        quotas[group] += 1
    for group, quota in zip(groups, quotas, strict=True):
        if not len(group.numbers):
            raise ShardError(f"stream {stream}: {group.name} has a sampling weight but no samples: remove the weight")
        if quota < 1:
            raise ShardError(
                f"stream {stream}: the sampling weight of {group.name} is below 1/{BLOCK} of the total: increase it"
            )
    return quotas
