"""Prefetch remote shards in the background, shortly before they are needed."""

import threading

from ..format.manifest import Shard
from .storage import Storage

AT_ONCE = 2
"""Shards that one process prefetches at the same time, in addition to the one the reader is waiting for."""


class Prefetch:
    """Fetches shards into the cache, each in a daemon thread.

    Errors are ignored here: the reader tries again and reports them.

    Args:
        storage: storage of the split.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._begun: set[str] = set()
        self._free = threading.Semaphore(AT_ONCE)

    def want(self, shard: Shard) -> None:
        """Start to fetch a shard, unless it was started before or enough others are in progress; never blocks."""
        if shard.name in self._begun or not self._free.acquire(blocking=False):
            return
        self._begun.add(shard.name)
        threading.Thread(target=self._fetch, args=(shard,), daemon=True).start()

    def forget(self, shard: Shard) -> None:
        """Allow a shard to be fetched again: the reader has closed it, and the cache may have removed it."""
        self._begun.discard(shard.name)

    def _fetch(self, shard: Shard) -> None:
        try:
            with self._storage.tar(shard):
                pass
        except Exception:
            pass
        finally:
            self._free.release()
