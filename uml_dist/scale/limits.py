"""What stops a training from using more ranks: global batch, shards, memory, communication."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .model import Prediction

WORTHWHILE = 0.5
"""Efficiency below which more ranks are not worthwhile."""


@dataclass(frozen=True, order=True)
class Limit:
    """A limit: the smallest number of ranks that it affects, and a line for the user."""

    ranks: int
    text: str


def batch_limit(counts: dict[str, int]) -> Limit:
    """Return the limit by the global batch, of which every rank needs at least one sample of each stream."""
    name, count = min(counts.items(), key=lambda item: item[1])
    return Limit(
        count + 1,
        f"the global batch: streams.{name}.count = {count} has no sample for more ranks, and a larger one changes the "
        "training",
    )


def shard_limit(shards: dict[str, int]) -> Limit:
    """Return the limit by the number of shards: with fewer than ranks, several ranks read the same shard."""
    name, count = min(shards.items(), key=lambda item: item[1])
    return Limit(count + 1, f"the shards: stream {name} has {count}, so that more ranks read the same ones")


def memory_limit(needed: int, memory: int) -> Limit | None:
    """Return the limit by memory, in bytes, if a rank needs more than it has."""
    if needed <= memory:
        return None
    return Limit(1, f"memory: a rank needs {needed / 1e9:.1f} GB of {memory / 1e9:.1f} GB")


def efficiency_limit(predicted: Callable[[int], Prediction], ranks: int) -> Limit | None:
    """Return from which power of two on, up to a number of ranks, more of them are not worthwhile."""
    for count in _powers(ranks):
        one = predicted(count)
        if one.efficiency < WORTHWHILE:
            what, seconds = max(
                (("communication", one.communication), ("the update of the weights", one.update)), key=lambda it: it[1]
            )
            share = seconds / one.step
            return Limit(count, f"{what}: {100 * share:.0f} % of a step of {1000 * one.step:.3g} ms on {count} ranks")
    return None


def _powers(ranks: int) -> Iterable[int]:
    count = 2
    while count < ranks:
        yield count
        count *= 2
    if ranks > 1:
        yield ranks
