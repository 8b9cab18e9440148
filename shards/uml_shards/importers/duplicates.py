"""Find identical image files, which leak from one split into another under different names."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Literal

from ..errors import ShardError

Duplicates = Literal["error", "drop", "keep"]
"""What to do with identical images in several splits."""

DUPLICATES = "identical images in several splits: error; drop: keep those of test, else of val; keep: keep all"
"""Description of a setting of this type."""

_ORDER = ("test", "val")
"""Splits that keep their copy with "drop", the most important one first."""


def without_copies(
    images: Mapping[str, Path],
    split_of: Mapping[str, str],
    labels: Mapping[str, int],
    duplicates: Duplicates,
    note: Callable[[str, int], None],
) -> dict[str, str]:
    """Return the split of each image, without those dropped because another split contains the same file.

    Args:
        images: name -> file, or folder of DICOM files.
        split_of: name -> split.
        labels: name -> label, of labelled images.
        duplicates: "error" refuses identical files in several splits; "drop" keeps those of test, then of val, then of
            the split that comes first in the alphabet; "keep" keeps all.
        note: told how many identical files there are.

    Raises:
        ShardError: a file is in two splits and `duplicates` is "error", or a file cannot be read.
    """
    kept = dict(split_of)
    copies = crossing = contradictory = 0
    for same in identical_files(images):
        copies += len(same) - 1
        contradictory += len({labels[name] for name in same if name in labels}) > 1
        splits = sorted({split_of[name] for name in same}, key=_rank)
        if len(splits) < 2:
            continue
        crossing += 1
        first, other = (min(name for name in same if split_of[name] == split) for split in splits[:2])
        if duplicates == "error":
            raise ShardError(
                f"{images[first]} ({splits[0]}) and {images[other]} ({splits[1]}) are the same image: remove "
                "one, give both the same patient and let the splits be drawn, or use duplicates=drop, which keeps "
                "it out of the split for training"
            )
        if duplicates == "drop":
            for name in same:
                if split_of[name] != splits[0]:
                    del kept[name]
    if copies:
        note("images identical to another one", copies)
    if crossing:
        note(f"identical images in several splits (duplicates={duplicates})", crossing)
    if contradictory:
        note("identical images with different labels", contradictory)
    return kept


def identical_files(files: Mapping[str, Path]) -> list[list[str]]:
    """Return the names of files with equal contents, in groups of two and more.

    Only files of equal size are read. A folder is the same as another if its files are, whatever their names.

    Raises:
        ShardError: a file cannot be read.
    """
    return [same for sized in _groups(files, files, _size) for same in _groups(sized, files, _digest)]


def _groups(names: Iterable[str], files: Mapping[str, Path], key: Callable[[Path], Hashable]) -> list[list[str]]:
    found: dict[Hashable, list[str]] = defaultdict(list)
    for name in names:
        try:
            found[key(files[name])].append(name)
        except OSError as error:
            raise ShardError(f"{files[name]} cannot be read: {error.strerror}") from None
    return [sorted(group) for group in found.values() if len(group) > 1]


def _parts(path: Path) -> list[Path]:
    return [part for part in path.iterdir() if part.is_file()] if path.is_dir() else [path]


def _size(path: Path) -> Hashable:
    return tuple(sorted(part.stat().st_size for part in _parts(path)))


def _digest(path: Path) -> Hashable:
    digests = []
    for part in _parts(path):
        with part.open("rb") as file:
            digests.append(hashlib.file_digest(file, "blake2b").digest())
    return tuple(sorted(digests))


def _rank(split: str) -> tuple[int, str]:
    return (_ORDER.index(split) if split in _ORDER else len(_ORDER), split)
