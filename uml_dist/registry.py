"""Looks up recipe classes by built-in name, by the name of an installed package's entry point, or by import path."""

from typing import Any, ClassVar

from uml_shards.plugins import Plugins

from .errors import UmlError

RECIPES = {
    "uml": "uml_dist.recipes.uml.recipe:UmlRecipe",
    "ugmcl": "uml_dist.recipes.ugmcl.recipe:UgmclRecipe",
    "collab": "uml_dist.recipes.collab.recipe:CollabRecipe",
}
"""Built-in name -> module:class. A class is imported when its name is looked up, so that no other recipe is loaded."""


class Registered:
    """Base of `uml_dist.recipes.Recipe`: what the configuration needs to know about a recipe.

    Class attributes:
        name: the recipe's name in configurations and checkpoints.
        Config: its configuration, a subclass of `uml_dist.config.schema.RunConfig`.
    """

    name: ClassVar[str]
    Config: ClassVar[type[Any]]


PLUGINS = Plugins(
    kind="recipe",
    group="uml_dist.recipes",
    base=Registered,
    base_path="uml_dist.recipes.Recipe",
    required=("name",),
    error=UmlError,
)
"""Recipes of other packages, which declare them as entry points of this group."""


def find_class(name: str) -> type[Registered]:
    """Return the recipe class of a name, or of the import path `package.module:Class`.

    A name is built in or the name of an installed package's entry point; a built-in name takes precedence.

    Raises:
        UmlError: the name is unknown or declared by two packages, the module cannot be imported, or the class is not a
            complete recipe.
    """
    if name in RECIPES:
        return PLUGINS.load(f"recipe {name!r}", RECIPES[name])
    return PLUGINS.find(name, RECIPES)
