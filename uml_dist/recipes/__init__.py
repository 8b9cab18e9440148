"""Recipes: a method from a paper each. A new one is a folder here, or a class of a user's own package."""

from importlib import import_module

from ..errors import UmlError
from .recipe import Averaged, Frozen, MicroBatchResult, Phase, Progress, Recipe, Trained, trained_source

RECIPES = {"uml": "uml_dist.recipes.uml.recipe:UmlRecipe"}
"""Name -> module:class. Looked up late, so that a configuration loads no other recipe's code."""


def recipe_class(name: str) -> type[Recipe]:
    """The recipe of a name, or of the path `package.module:Class` of any importable class.

    Raises:
        UmlError: there is none, its module cannot be imported, or it is not a complete subclass of `Recipe`.
    """
    module_name, _, attribute = RECIPES.get(name, name).partition(":")
    if not (module_name and attribute):
        raise UmlError(
            f"unknown recipe {name!r}: use one of {', '.join(sorted(RECIPES))}, or package.module:Class of your own"
        )
    try:
        module = import_module(module_name)
    except Exception as error:  # whatever the code of a user's module raises
        raise UmlError(f"recipe {name!r}: {_why_not_imported(module_name, error)}") from error
    kind = getattr(module, attribute, None)
    if kind is None:
        raise UmlError(f"recipe {name!r}: module {module_name} has no {attribute}")
    if not (isinstance(kind, type) and issubclass(kind, Recipe)):
        raise UmlError(f"recipe {name!r}: {attribute} is not a subclass of uml_dist.recipes.Recipe")
    missing = sorted(kind.__abstractmethods__) + ([] if hasattr(kind, "name") else ["name"])
    if missing:
        raise UmlError(f"recipe {name!r}: class {attribute} does not define {', '.join(missing)}")
    return kind


def _why_not_imported(module: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return f"there is no module {error.name}: install its package, or add its folder to PYTHONPATH"
    first_line = str(error).partition("\n")[0]
    return f"module {module} cannot be imported: {type(error).__name__}: {first_line}"


__all__ = [
    "RECIPES",
    "Averaged",
    "Frozen",
    "MicroBatchResult",
    "Phase",
    "Progress",
    "Recipe",
    "Trained",
    "recipe_class",
    "trained_source",
]
