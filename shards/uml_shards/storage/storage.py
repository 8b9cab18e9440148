"""Access to the files of a split: a local folder, or a URL with a cache."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from ..address import Address, Location
from ..errors import ShardError
from ..files import read_regular
from ..format.index import index_bytes
from ..format.manifest import FILE_NAME, MAX_BYTES, Manifest, Shard
from .cache import Cache
from .download import Content, read_bytes
from .verified import Verified, Verify, check_size


class Storage(Protocol):
    """The files of one split. Can be pickled."""

    def load_manifest(self) -> Manifest:
        """Load the current manifest.

        Raises:
            ShardError: the manifest cannot be read or does not match the schema.
        """
        ...

    def read_index(self, shard: Shard, components: int) -> bytes:
        """Read the index of a shard without checking it. A local tar's existence and size are checked first.

        Args:
            shard: entry of the manifest.
            components: number of components in the manifest.

        Raises:
            ShardError: the index cannot be read, or the tar is missing or has another size.
        """
        ...

    def tar(self, shard: Shard, *, rehash: bool = False) -> AbstractContextManager[Path]:
        """Provide the file of a shard's tar, which exists inside the `with` block.

        Args:
            shard: entry of the manifest.
            rehash: whether to hash the file or its cached copy again instead of trusting an earlier check.

        Raises:
            ShardError: the tar cannot be read or fetched, or differs from the manifest.
        """
        ...


class LocalStorage:
    """A split in a local folder."""

    def __init__(self, folder: Path, verify: Verify = "first-use") -> None:
        self.folder = folder
        self.verify = verify
        self._verified = Verified()

    def load_manifest(self) -> Manifest:
        """Load the manifest from the folder."""
        return Manifest.load(self.folder)

    def read_index(self, shard: Shard, components: int) -> bytes:
        """Read the index after checking that the tar exists with the stated size."""
        tar, index = self.folder / shard.name, self.folder / shard.index
        try:
            check_size(tar, tar.stat().st_size, shard.bytes)
            return read_regular(index, index_bytes(shard.samples, components))
        except OSError as error:
            raise ShardError(f"{error.filename} cannot be read: {error.strerror}: make the shards again") from None

    @contextmanager
    def tar(self, shard: Shard, *, rehash: bool = False) -> Iterator[Path]:
        """Provide the tar in the folder, after hashing it at its first use."""
        path = self.folder / shard.name
        if rehash or self.verify == "first-use":
            self._verified.check(path, shard, rehash=rehash)
        yield path


class RemoteStorage:
    """A split behind a URL. The manifest is fetched every time; other files are cached at their first use."""

    def __init__(self, address: Address, cache: Cache) -> None:
        self.address, self.cache = address, cache

    def load_manifest(self) -> Manifest:
        """Fetch the manifest from the server; it determines which cached files are still valid."""
        address = self.address / FILE_NAME
        return Manifest.parse(read_bytes(address, MAX_BYTES), address)

    def read_index(self, shard: Shard, components: int) -> bytes:
        """Read the index from the cache."""
        content = Content(index_bytes(shard.samples, components), sha256=shard.index_sha256)
        with self.cache.file(self.address / shard.index, content, rehash=True) as path:
            return path.read_bytes()

    def tar(self, shard: Shard, *, rehash: bool = False) -> AbstractContextManager[Path]:
        """Provide the tar from the cache."""
        content = Content(shard.bytes, shard.bytes, shard.sha256)
        return self.cache.file(self.address / shard.name, content, rehash=rehash)


def open_storage(location: Location, cache: Cache | None = None, verify: Verify = "first-use") -> Storage:
    """Return the storage of the split at a location.

    Args:
        location: folder or URL of the split.
        cache: cache for the files of a URL; default if None.
        verify: when to hash the tars in a folder. Those of a URL are always hashed when they are fetched.
    """
    if isinstance(location, Address):
        return RemoteStorage(location, cache or Cache())
    return LocalStorage(location, verify)
