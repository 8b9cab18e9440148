"""The labelled part of a stream's samples, or all others: by masks and labels, or by a list of keys."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError, reading
from ..files import read_regular
from .samples import PartName, Samples
from .split import Split

MAX_LIST_BYTES = 1 << 30
"""Largest list of keys that is read; enough for ten million keys."""


def part_of(whole: Samples, name: PartName, ids: Path | None = None) -> Samples:
    """Return a part of a split.

    Args:
        whole: samples of one or several splits.
        name: name of the part.
        ids: file with the keys of the labelled samples, see `read_keys`; if None, see `with_truth`.

    Raises:
        ShardError: the part is empty, or the list cannot be read or contains a key that is unknown, occurs in two data
            sets, or belongs to a sample with neither label nor mask.
    """
    labelled = with_truth(whole) if ids is None else _listed(whole, ids)
    if name == "labelled" and not labelled.any():
        raise ShardError(f"no sample of {whole} is labelled: none has a mask or a label")
    if name == "unlabelled" and labelled.all():
        why = (
            f"list {ids} contains all of them"
            if ids
            else "all have a mask or a label: list the labelled ones in labelled_ids"
        )
        raise ShardError(f"no sample of {whole} is unlabelled: {why}")
    return whole.part(name, labelled)


def with_truth(whole: Samples | Split) -> NDArray[np.bool_]:
    """Return which samples (N,) have a mask, or, if no sample has a mask, which have a label."""
    masked = whole.masked()
    return masked if masked.any() else whole.labels() >= 0


def read_keys(path: Path) -> dict[str, int]:
    """Read a text file of one key per line and return key -> line number. Empty lines and # comments are ignored.

    Raises:
        ShardError: the file cannot be read, contains no key, or contains a key twice.
    """
    with reading(f"list {path}"):
        data = read_regular(path, MAX_LIST_BYTES)
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ShardError(f"list {path} is not UTF-8 text: write one key per line") from None
    found: dict[str, int] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        if line in found:
            raise ShardError(f"list {path}, line {number}: key {line!r} is already in line {found[line]}")
        found[line] = number
    if not found:
        raise ShardError(f"list {path} contains no keys: write one per line, or create it with `shards.py draw`")
    return found


def _listed(whole: Samples, path: Path) -> NDArray[np.bool_]:
    """Return which samples are in a list."""
    lines = read_keys(path)
    numbers: dict[str, int] = {}
    for number, key in enumerate(whole.keys()):
        if key in numbers:
            raise ShardError(f"list {path}, line {lines[key]}: key {key!r} is in two data sets of {whole}")
        if key in lines:
            numbers[key] = number
    known = whole.masked() | (whole.labels() >= 0)
    for key, line in lines.items():
        if key not in numbers:
            raise ShardError(f"list {path}, line {line}: key {key!r} is not in {whole}")
        if not known[numbers[key]]:
            raise ShardError(f"list {path}, line {line}: sample {key!r} has neither label nor mask: leave it out")
    chosen = np.zeros(len(whole), dtype=np.bool_)
    chosen[list(numbers.values())] = True
    return chosen
