"""Weighted plans: draws from several groups of samples, by weight. Pure functions of the position, as `Plan` is.

A group is a class of a split, or one of several data sets. Time is cut into blocks of BLOCK steps, and in every block
each slot draws from each group as often as its weight says, exactly. Which group a slot draws from at a step follows
one permutation of the block that all slots share, each begun elsewhere and evenly spaced: so a global batch holds the
groups in their proportions too, up to two samples of each. What a group gives is the order of a `Plan` of its own, in
which every sample of the group stands once in each pass; its lanes are the slots, and a small group has more passes.
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
"""Steps after which every slot has drawn from every group by its weight exactly; weights are rounded to 1 / BLOCK."""


@dataclass(frozen=True)
class Group:
    """Samples that are drawn alike.

    Attributes:
        name: for messages.
        numbers: of the samples, ascending.
        shard_samples: how many of them lie in each shard, in the order of `numbers`; shards of none may be left out.
        weight: of all of them together, relative to the other groups.
    """

    name: str
    numbers: NDArray[np.int64] = field(repr=False)
    shard_samples: Sequence[int]
    weight: float


class WeightedPlan:
    """The order of one stream whose samples are drawn from groups by weight.

    Args:
        groups: what is drawn from; those of weight 0 are left out.
        slots: samples of this stream in each global batch.
        seed: of the run.
        stream: name of the stream.
        window: samples among which a slot shuffles within a group.

    Raises:
        ShardError: no group has a weight, a weight is negative or no number, less than 1 / BLOCK of all, or of a group
            without samples.
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
        """The epoch that a step belongs to: as many draws as there are samples."""
        return step * self.slots // self.samples

    def sample(self, position: int) -> int:
        """The number of the sample that stands at a position, step * slots + slot, from 0."""
        step, slot = divmod(position, self.slots)
        block, inside = divmod(step, BLOCK)
        groups, earlier = self._block(block, slot)
        group = int(groups[inside])
        draw = block * int(self._quotas[group]) + int(earlier[inside])
        return int(self.groups[group].numbers[self._plans[group].sample(draw * self.slots + slot)])

    def _draws_of_block(self, block: int, slot: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of each step of a block: the group that a slot draws from, and how often it has done so in the block."""
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
    """The samples of a split by class, and those without a label, which keep the share that they have.

    Args:
        labels: (N,) class numbers in manifest order; -1 = not labelled.
        shard_samples: samples in each shard.
        classes: names, in label order.
        weights: how often each class is drawn relative to the others, by name; a class that is not named is not drawn.
            "balanced" draws every class that has samples equally often.

    Raises:
        ShardError: there is no label, or a weight names no class or is negative.
    """
    labels = np.asarray(labels)
    if not len(classes) or not (labels >= 0).any():
        raise ShardError("sampling by class needs labels, and the shards have none: use sampling epoch")
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    if isinstance(weights, str):
        weights = {name: 1.0 for name, count in zip(classes, counts, strict=True) if count}
    for name in weights:
        if name not in classes:
            raise ShardError(f"sampling gives a weight to {name!r}: the classes are {', '.join(classes)}")
    total = sum(weights.values())
    if not all(weight >= 0 for weight in weights.values()) or not 0 < total < math.inf:
        raise ShardError("sampling by class: the weights must be positive numbers, one at least above 0")
    labelled = counts.sum() / len(labels)
    found = [
        _group(name, labels == number, shard_samples, weights.get(name, 0.0) / total * labelled)
        for number, name in enumerate(classes)
    ]
    return [*found, _group("unlabelled", labels < 0, shard_samples, 1 - labelled)]


def groups_of_sets(shard_samples: Sequence[Sequence[int]], weights: Sequence[float]) -> list[Group]:
    """Several data sets whose samples are numbered one after the other.

    Args:
        shard_samples: of each set, the samples in each shard.
        weights: how often each set is drawn from relative to the others.
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
    """Draws of each group in a block: weights rounded by largest remainder."""
    weights = np.asarray([group.weight for group in groups], dtype=np.float64)
    if not len(groups) or not np.isfinite(weights).all() or (weights < 0).any():
        raise ShardError(f"stream {stream}: sampling weights must be positive numbers, one at least above 0")
    exact = weights / weights.sum() * BLOCK
    quotas = np.floor(exact).astype(np.int64)
    for group in np.argsort(quotas - exact, kind="stable")[: BLOCK - int(quotas.sum())]:
        quotas[group] += 1
    for group, quota in zip(groups, quotas, strict=True):
        if not len(group.numbers):
            raise ShardError(f"stream {stream}: {group.name} has a sampling weight but no samples: give it none")
        if quota < 1:
            raise ShardError(f"stream {stream}: the sampling weight of {group.name} is below 1/{BLOCK} of all")
    return quotas
