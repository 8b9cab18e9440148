"""Counter-based random numbers: a keyed hash instead of a stateful generator.

Every random decision is a pure function of its key (seed, stream, position, operation). It is therefore the same after
a resume and for any number of ranks and workers, and there is no generator state to save.

The hash chains the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014) over the words of the key.
"""

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST = np.uint64(0xBF58476D1CE4E5B9)
SECOND = np.uint64(0x94D049BB133111EB)


def word(name: str | int) -> int:
    """Return a 64-bit word for a name (its blake2b digest) or an integer (its two's complement)."""
    if isinstance(name, str):
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    return int(name) & 0xFFFFFFFFFFFFFFFF


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * FIRST
    state = (state ^ (state >> np.uint64(27))) * SECOND
    return state ^ (state >> np.uint64(31))


def keyed_bits(*key: str | int | ArrayLike) -> NDArray[np.uint64]:
    """Return 64 random bits for each key.

    Args:
        key: words of the key, most general first: names, integers, or integer arrays that broadcast.

    Returns:
        uint64 array of the broadcast shape (a 0-d array if every word is a scalar).
    """
    state = np.asarray(0, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in key:
            if isinstance(part, str | int):
                words = np.asarray(word(part), dtype=np.uint64)
            else:
                words = np.asarray(part).astype(np.uint64)
            state = _mix((state ^ words) + GOLDEN)
    return state


def keyed_uniform(*key: str | int | ArrayLike) -> NDArray[np.float64]:
    """Return uniform floats in [0, 1) for each key, with 53 random bits."""
    return (keyed_bits(*key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def keyed_permutation(length: int, *key: str | int) -> NDArray[np.int64]:
    """Return a permutation of range(length) as int64: the members sorted by their hashes."""
    return np.argsort(keyed_bits(*key, np.arange(length)), kind="stable")
