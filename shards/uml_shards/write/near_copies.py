"""List images of different splits that look the same, such as copies that were resized or compressed again.

Needs the extra `copies`: imagehash, whose perceptual hash is the sign of the low frequencies of the grey image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from ..address import Location
from ..errors import ShardError
from ..read.split import Split, open_split
from ..storage.cache import Cache

_SIDE = 16
"""Side of the hash: 256 bits."""

DISTANCE = 20
"""Largest number of different bits of two copies. Of 1500 images of ISIC 2017, the two closest pairs of different
files differ in 8 bits (they show the same lesion), all others in more than 32; scaling by 0.7 and JPEG of quality 60
change up to 12."""

_BLOCK = 1024
"""Images of one split that are compared with all of another at once, to bound the memory."""


@dataclass(frozen=True)
class NearCopy:
    """Two images that look the same.

    Attributes:
        first: split and key of one image.
        second: split and key of the other.
        distance: number of different bits of their hashes, of 256.
    """

    first: tuple[Location, str]
    second: tuple[Location, str]
    distance: int

    def __str__(self) -> str:
        (one, key), (other, copy) = self.first, self.second
        return f"{one} {key} and {other} {copy} look alike: their hashes differ in {self.distance} of {_SIDE**2} bits"


def near_copies(splits: Sequence[Location], *, cache: Cache | None = None, quiet: bool = False) -> list[NearCopy]:
    """Return all pairs of similar images in different splits, the most similar first.

    Args:
        splits: folders or URLs of splits of 2D images.
        cache: cache for the files of a URL; default if None.
        quiet: whether to hide the progress bar.

    Raises:
        ShardError: imagehash is missing, a split contains volumes, or a sample cannot be read.
    """
    opened = [open_split(path, cache) for path in splits]
    hashes = [_hashes(split, quiet) for split in opened]
    keys = [split.keys() for split in opened]
    found = []
    for one, other in combinations(range(len(opened)), 2):
        for row, column, distance in _close(hashes[one], hashes[other]):
            first, second = (opened[one].path, keys[one][row]), (opened[other].path, keys[other][column])
            found.append(NearCopy(first, second, distance))
    return sorted(found, key=lambda pair: (pair.distance, pair.first[1], pair.second[1]))


def _hashes(split: Split, quiet: bool) -> NDArray[np.float32]:
    """Return the hashes (N, bits) of all images of a split, with 1 and -1 for the bits."""
    try:
        from imagehash import phash
    except ModuleNotFoundError:
        raise ShardError("near copies need imagehash: pip install 'uml-shards[copies]'") from None
    if split.manifest.dimensions == 3:
        raise ShardError(f"{split.path}: near copies are found among 2D images only, but this split has volumes")
    bits = np.empty((len(split), _SIDE**2), np.float32)
    for number in tqdm(range(len(split)), desc=split.path.name, unit="sample", disable=quiet or None):
        bits[number] = phash(_grey(split.read(number).image), hash_size=_SIDE).hash.ravel()
    return 1 - 2 * bits


def _grey(image: NDArray[np.integer]) -> Image.Image:
    """Return (H, W, channels) as a grey picture of 8 bits."""
    eight = (image >> 8 if image.dtype == np.uint16 else image).astype(np.uint8)
    return Image.fromarray(eight if eight.shape[2] == 3 else eight[..., 0]).convert("L")


def _close(one: NDArray[np.float32], other: NDArray[np.float32]) -> list[tuple[int, int, int]]:
    """Return row, column and distance of all pairs of hashes that differ in at most `DISTANCE` bits."""
    found = []
    for start in range(0, len(one), _BLOCK):
        # The product of two bits is 1 if they are equal, else -1.
        distances = (_SIDE**2 - one[start : start + _BLOCK] @ other.T) / 2
        for row, column in np.argwhere(distances <= DISTANCE):
            found.append((start + int(row), int(column), int(distances[row, column])))
    return found
