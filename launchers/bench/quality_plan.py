"""The methods of the quality benchmark, and the runs that compare them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from comparison_jobs import Bench, Job, plan_jobs, split_words, with_shards
from uml_dist.config.loading import apply_overrides, read_toml
from uml_dist.errors import UmlError


@dataclass(frozen=True)
class Method:
    """One side of the comparison.

    Attributes:
        recipe: recipe of the method.
        words: settings of the method, applied before those of the command line.
        drops: tables of uml's configuration that do not apply to it.
    """

    recipe: str
    words: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()


METHODS = {
    "uml": Method("uml"),
    "plain": Method("plain_unet:PlainUnet", ("optimizer.lr=2e-3",), ("model", "objective", "networks")),
}
"""The learning rate has the lowest validation loss after 900 steps on the phantom: 0.431; 1e-3: 0.441, 3e-3: 0.452."""


def plan(bench: Bench, methods: Iterable[str], seeds: Iterable[int]) -> list[Job]:
    """Return all runs; see `plan_jobs`. The configuration of `bench` is uml's.

    Raises:
        UmlError, ShardError: a configuration does not fit the data or an existing run.
    """
    return plan_jobs(bench, {method: _tree(bench, method) for method in methods}, seeds)


def _tree(bench: Bench, method: str) -> dict[str, Any]:
    """Return the configuration of a method, without its seed."""
    tree = read_toml(bench.config)
    if tree.get("recipe") != "uml":
        raise UmlError(f"configuration {bench.config} is not for recipe uml, which the benchmark compares")
    known = METHODS[method]
    tree = {key: value for key, value in tree.items() if key not in known.drops} | {"recipe": known.recipe}
    shared, own = split_words(bench.words, method, METHODS)
    return apply_overrides(with_shards(tree, bench.shards), [*known.words, *shared, *own])
