"""Shards of medical images: plain webdataset tars with a manifest, a plan and a stream."""

from .cache import Cache
from .errors import ShardError
from .manifest import Manifest
from .sample import Sample
from .split import Split, open_split

__all__ = ["Cache", "Manifest", "Sample", "ShardError", "Split", "open_split"]
