"""Looks up recipe classes by registered name or import path."""

from importlib import import_module
from inspect import isabstract
from typing import Any, ClassVar

from .errors import UmlError

RECIPES = {"uml": "uml_dist.recipes.uml.recipe:UmlRecipe"}
"""Name -> module:class. A class is imported when its name is looked up, so that no other recipe's code is loaded."""


class Registered:
    """Base of `uml_dist.recipes.Recipe`: what the configuration needs to know about a recipe.

    Class attributes:
        name: the recipe's name in configurations and checkpoints.
        Config: its configuration, a subclass of `uml_dist.config.schema.RunConfig`.
    """

    name: ClassVar[str]
    Config: ClassVar[type[Any]]


def find_class(name: str) -> type[Registered]:
    """Return the recipe class of a registered name, or of the import path `package.module:Class`.

    Raises:
        UmlError: the name is unknown, the module cannot be imported, or the class is not a complete recipe.
    """
    module_name, _, attribute = RECIPES.get(name, name).partition(":")
    if not (module_name and attribute):
        raise UmlError(
            f"unknown recipe {name!r}: use one of {', '.join(sorted(RECIPES))}, or package.module:Class of your own"
        )
    try:
        module = import_module(module_name)
    except Exception as error:  # a user's module may raise anything
        raise UmlError(f"recipe {name!r}: {_import_failure(module_name, error)}") from error
    found = getattr(module, attribute, None)
    if found is None:
        raise UmlError(f"recipe {name!r}: module {module_name} has no {attribute}")
    if not (isinstance(found, type) and issubclass(found, Registered)):
        raise UmlError(f"recipe {name!r}: {attribute} is not a subclass of uml_dist.recipes.Recipe")
    missing = sorted(getattr(found, "__abstractmethods__", ())) if isabstract(found) else []
    missing += [] if hasattr(found, "name") else ["name"]
    if missing:
        raise UmlError(f"recipe {name!r}: class {attribute} does not define {', '.join(missing)}")
    return found


def _import_failure(module: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return f"there is no module {error.name}: install its package, or add its folder to PYTHONPATH"
    first_line = str(error).partition("\n")[0]
    return f"module {module} cannot be imported: {type(error).__name__}: {first_line}"
