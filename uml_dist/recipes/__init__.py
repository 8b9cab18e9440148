"""Recipes: one method from a paper each. A new one is a folder here, or a class in a package of your own."""

from ..registry import RECIPES, find_class
from .averages import averages_in, networks_of, predicting
from .recipe import (
    Averaged,
    Frozen,
    MicroBatchResult,
    Network,
    Opinions,
    Phase,
    Progress,
    Recipe,
    StreamContract,
    Trained,
    trained_source,
)


def recipe_class(name: str) -> type[Recipe]:
    """Return the recipe of a name, built in or declared by an installed package, or of `package.module:Class`.

    Raises:
        UmlError: see `uml_dist.registry.find_class`.
    """
    found = find_class(name)
    assert issubclass(found, Recipe)
    return found


__all__ = [
    "RECIPES",
    "Averaged",
    "Frozen",
    "MicroBatchResult",
    "Network",
    "Opinions",
    "Phase",
    "Progress",
    "Recipe",
    "StreamContract",
    "Trained",
    "averages_in",
    "networks_of",
    "predicting",
    "recipe_class",
    "trained_source",
]
