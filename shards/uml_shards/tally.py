"""What this process, and the loader workers whose batches it has received, have read from shards: plain counts.

The counts of a loader worker travel with its batches; `uml_shards.read.loader` adds them to those of the process that
receives the batches. So each process takes its own counts only, and nothing is shared between processes.
"""

import os
from collections import Counter
from collections.abc import Mapping
from threading import Lock
from typing import Literal

Kind = Literal["shards_opened", "shard_read_bytes", "cache_hits", "cache_misses"]
"""What is counted: tars opened, bytes read from files of shards, and look-ups of remote files in the cache that found
them, or had to fetch them."""


class _Tally:
    def __init__(self) -> None:
        self.counts: Counter[Kind] = Counter()
        self.lock = Lock()  # shards are fetched in threads


_tally = _Tally()


def _start_anew() -> None:
    """Forget the counts of the parent process, and its lock, which another of its threads may have held."""
    global _tally
    _tally = _Tally()


os.register_at_fork(after_in_child=_start_anew)


def count(kind: Kind, amount: int = 1) -> None:
    """Count something."""
    with _tally.lock:
        _tally.counts[kind] += amount


def add(counts: Mapping[Kind, int]) -> None:
    """Add the counts that another process has taken."""
    with _tally.lock:
        _tally.counts.update(counts)


def take() -> dict[Kind, int]:
    """Return the counts since the last call."""
    with _tally.lock:
        taken = dict(_tally.counts)
        _tally.counts.clear()
    return taken
