"""Importers of raw data sets. Every module in this package that defines `IMPORTER` is found automatically."""

import difflib
import importlib
import pkgutil

from ..errors import ShardError
from .base import Importer, Options, Source

__all__ = ["Importer", "Options", "Source", "find_importer", "importers"]


def importers() -> dict[str, type[Importer]]:
    """Return all importers, by name."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    classes = (getattr(module, "IMPORTER", None) for module in modules)
    return {found.name: found for found in sorted(filter(None, classes), key=lambda found: found.name)}


def find_importer(name: str) -> type[Importer]:
    """Return the importer of a data set.

    Raises:
        ShardError: there is no importer of this name; the message suggests a similar one.
    """
    known = importers()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"available: {', '.join(known)}"
        raise ShardError(f"no importer for data set {name!r}: {hint}")
    return known[name]
