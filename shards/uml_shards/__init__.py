"""Read and write medical images as sharded webdataset tars with a manifest, an index and a deterministic order."""

from .errors import ShardError
from .format.manifest import Manifest
from .read.split import Split, open_split
from .sample import Sample
from .storage.cache import Cache

__all__ = ["Cache", "Manifest", "Sample", "ShardError", "Split", "open_split"]
