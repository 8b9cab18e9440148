"""Remote shards fetched in the background, shortly before they are wanted."""

import threading

from ..errors import ShardError
from ..format.manifest import Shard
from .storage import Storage

AT_ONCE = 2
"""Shards that one process fetches ahead at the same time; what the reader itself waits for comes on top."""


class Prefetch:
    """Fetches shards into the cache, each in a thread that dies with the process.

    What goes wrong is left to the reader, who tries again and tells.

    Args:
        storage: of the split.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._begun: set[str] = set()
        self._free = threading.Semaphore(AT_ONCE)

    def want(self, shard: Shard) -> None:
        """Begin to fetch a shard, unless that was begun before or enough others are on their way; never waits."""
        if shard.name in self._begun or not self._free.acquire(blocking=False):
            return
        self._begun.add(shard.name)
        threading.Thread(target=self._fetch, args=(shard,), daemon=True).start()

    def forget(self, shard: Shard) -> None:
        """Let a shard be fetched again: the reader has closed it, and the cache may have let it go."""
        self._begun.discard(shard.name)

    def _fetch(self, shard: Shard) -> None:
        try:
            with self._storage.tar(shard):
                pass
        except ShardError:
            pass
        finally:
            self._free.release()
