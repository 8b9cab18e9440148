"""Importers of raw data sets.

Every module in this package that defines `IMPORTER` is found automatically. Other packages declare theirs as entry
points of the group `uml_shards.importers`.
"""

import importlib
import pickle
import pkgutil
from contextlib import suppress

from ..errors import ShardError
from ..plugins import Plugins
from .base import Importer, Options, Source

__all__ = ["Importer", "Options", "Source", "find_importer", "hidden_importers", "importer_names", "importers"]

_PLUGINS = Plugins(
    kind="importer",
    group="uml_shards.importers",
    base=Importer,
    base_path="uml_shards.importers.Importer",
    required=("name", "summary", "licence", "source", "where", "tree", "default_size"),
    error=ShardError,
)


def importers() -> dict[str, type[Importer]]:
    """Return all importers that can be used, by name: the built-in ones, then those of installed packages.

    An installed importer that cannot be used is left out; `find_importer` reports the reason.
    """
    found = _builtin()
    for name in importer_names():
        if name not in found:
            with suppress(ShardError):
                found[name] = find_importer(name)
    return found


def importer_names() -> list[str]:
    """Return the names of all importers: the built-in ones, then those of installed packages, which are not imported.

    Raises:
        ShardError: the metadata of an installed package are malformed.
    """
    builtin = list(_builtin())
    return builtin + [name for name in _PLUGINS.names() if name not in builtin]


def hidden_importers() -> list[str]:
    """Return one line for each importer of an installed package that has the name of a built-in one."""
    return _PLUGINS.hidden(_builtin())


def find_importer(name: str) -> type[Importer]:
    """Return the importer of a name, or of the import path `package.module:Class`.

    A name is built in or the name of an installed package's entry point; a built-in name takes precedence.

    Raises:
        ShardError: there is no importer of this name, in which case the message suggests a similar one; or two packages
            declare it, or its class cannot be used.
    """
    builtin = _builtin()
    if name in builtin:
        return builtin[name]
    found = _PLUGINS.find(name, builtin)
    try:
        pickle.dumps(found)
    except (pickle.PicklingError, AttributeError):
        raise ShardError(
            f"importer {name!r}: class {found.__name__} cannot be sent to worker processes: define it at the top level "
            f"of module {found.__module__}, under this name"
        ) from None
    return found


def _builtin() -> dict[str, type[Importer]]:
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    classes = (getattr(module, "IMPORTER", None) for module in modules)
    return {found.name: found for found in sorted(filter(None, classes), key=lambda found: found.name)}
