"""Read and write medical images as sharded webdataset tars with a manifest, an index and a deterministic order."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import ShardError
    from .format.manifest import Manifest
    from .read.split import Split, open_split
    from .sample import Sample
    from .storage.cache import Cache

__all__ = ["Cache", "Manifest", "Sample", "ShardError", "Split", "open_split"]

_MODULES = {
    "Cache": "storage.cache",
    "Manifest": "format.manifest",
    "Sample": "sample",
    "ShardError": "errors",
    "Split": "read.split",
    "open_split": "read.split",
}


def __getattr__(name: str) -> Any:
    """Import what people ask for by name when they do: programs that need a small module start faster."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
