"""Where the files of a split come from: a folder, or a URL with a cache in between."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from ..address import Address, Location
from ..errors import ShardError
from ..format.index import BLOCK, index_dtype
from ..format.manifest import FILE_NAME, Manifest, Shard
from .cache import Cache
from .download import Content, read_bytes

MANIFEST_BYTES = 1 << 26
"""The largest manifest that is fetched: 200 000 shards."""

INDEX_HEADER_BYTES = 8 * BLOCK
"""Room for the header of a .npy file."""


class Storage(Protocol):
    """The files of one split. May be pickled."""

    def load_manifest(self) -> Manifest:
        """The manifest, as it is now.

        Raises:
            ShardError: it cannot be had, or is not of this schema.
        """
        ...

    def read_index(self, shard: Shard, components: int) -> bytes:
        """The index of a shard, not yet checked, after what can be told of its tar without reading it.

        Args:
            shard: of the manifest.
            components: of each sample.

        Raises:
            ShardError: it cannot be had, or its tar is missing or of another size.
        """
        ...

    def tar(self, shard: Shard, *, rehash: bool = False) -> AbstractContextManager[Path]:
        """The file of a shard's tar, which stays there inside the `with`.

        Args:
            shard: of the manifest.
            rehash: trust no check of an earlier time where the tar is a copy.

        Raises:
            ShardError: it cannot be had.
        """
        ...


class LocalStorage:
    """A split folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load_manifest(self) -> Manifest:
        """The manifest in the folder."""
        return Manifest.load(self.folder)

    def read_index(self, shard: Shard, components: int) -> bytes:
        """The index, once the tar is found to be there in its size."""
        tar = self.folder / shard.name
        try:
            check_size(tar, tar.stat().st_size, shard.bytes)
            return (self.folder / shard.index).read_bytes()
        except OSError as error:
            raise ShardError(f"{error.filename} cannot be read: {error.strerror}: make the shards again") from None

    @contextmanager
    def tar(self, shard: Shard, *, rehash: bool = False) -> Iterator[Path]:
        """The tar itself."""
        yield self.folder / shard.name


class RemoteStorage:
    """A split behind a URL. The manifest is fetched each time, the rest into the cache when it is first wanted."""

    def __init__(self, address: Address, cache: Cache) -> None:
        self.address, self.cache = address, cache

    def load_manifest(self) -> Manifest:
        """The manifest on the server: it decides what of the cache is still right."""
        address = self.address / FILE_NAME
        return Manifest.parse(read_bytes(address, MANIFEST_BYTES), address)

    def read_index(self, shard: Shard, components: int) -> bytes:
        """The index, from the cache."""
        limit = INDEX_HEADER_BYTES + shard.samples * index_dtype(components).itemsize
        content = Content(limit, sha256=shard.index_sha256)
        with self.cache.file(self.address / shard.index, content, rehash=True) as path:
            return path.read_bytes()

    def tar(self, shard: Shard, *, rehash: bool = False) -> AbstractContextManager[Path]:
        """The tar in the cache."""
        content = Content(shard.bytes, shard.bytes, shard.sha256)
        return self.cache.file(self.address / shard.name, content, rehash=rehash)


def open_storage(location: Location, cache: Cache | None = None) -> Storage:
    """The files of the split at a location; a cache is for URLs, and the default one if none is given."""
    if isinstance(location, Address):
        return RemoteStorage(location, cache or Cache())
    return LocalStorage(location)


def check_size(path: Location, found: int, stated: int) -> None:
    """Compare a tar's size with the manifest's.

    Raises:
        ShardError: they differ.
    """
    if found != stated:
        what = f"{path}: has {found} bytes, the manifest says {stated}: the copy is not complete, or changed"
        raise ShardError(what, "tar")
