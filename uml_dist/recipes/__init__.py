"""Recipes: a method from a paper each. A new one is a folder here, a TOML and a test."""

from importlib import import_module

from ..errors import UmlError
from .base import Averaged, Frozen, Phase, Progress, Recipe, Step, Trained, trained_source

RECIPES = {"uml": "uml_dist.recipes.uml.recipe:UmlRecipe"}
"""Name -> module:class. Looked up late, so that a configuration loads no other recipe's code."""


def recipe_class(name: str) -> type[Recipe]:
    """The recipe of a name.

    Raises:
        UmlError: there is none.
    """
    if name not in RECIPES:
        raise UmlError(f"unknown recipe {name!r}: use one of {', '.join(sorted(RECIPES))}")
    module, _, attribute = RECIPES[name].partition(":")
    return getattr(import_module(module), attribute)


__all__ = [
    "RECIPES",
    "Averaged",
    "Frozen",
    "Phase",
    "Progress",
    "Recipe",
    "Step",
    "Trained",
    "recipe_class",
    "trained_source",
]
