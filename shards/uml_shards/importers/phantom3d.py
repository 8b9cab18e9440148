"""The phantom of volumes: generated from a seed, stored with its true probabilities. See `phantom_volumes`."""

from typing import Any

import numpy as np

from ..errors import ShardError
from ..format.volume import IMAGE, MASK, TRUTH, encode_volume
from ..sources.encode import encode_json
from . import phantom_volumes as phantom
from .base import Importer, Source
from .phantom import numbered

COUNTS = {"train": 32, "val": 8, "test": 16}
"""Default number of volumes of each split."""

SMALLEST = 16
"""Smallest size at which the organ has a shape."""


class Phantom3d(Importer):
    """Generates volumes instead of reading them; an item is (split, number)."""

    name = "phantom3d"
    summary = "synthetic volumes with known truth: an organ among look-alikes, its border ambiguous; made in seconds"
    licence = "Apache-2.0, made by this program"
    source = "uml_shards.importers.phantom_volumes: procedural, nothing to cite"
    where = "nothing to download: generated from --seed"
    tree = """\
no RAW; --size 48 gives 45 to 51 voxels along x and y, and 32 to 36 along z, of 1 x 1 x 1.5 mm"""
    default_size = 48
    needs_raw = False

    def splits(self) -> dict[str, Source]:
        """Return train, val and test; a split with a count of 0 is omitted.

        Raises:
            ShardError: a count is negative or for an unknown split, or the size is too small.
        """
        if self.size < SMALLEST:
            raise ShardError(f"phantom3d: size {self.size} is too small to show an organ: use {SMALLEST} or more")
        return {
            split: Source(items=items, mask_classes=("background", "organ"))
            for split, items in numbered(self, COUNTS).items()
        }

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        """Generate one volume and encode it with its true probabilities."""
        split, number = item
        drawn = phantom.draw(self.options.seed, split, number, self.size)
        place = {"spacing": list(drawn.spacing), "affine": np.diag([*drawn.spacing, 1.0]).tolist()}
        return f"{split}-{number:06d}", {
            IMAGE: encode_volume(drawn.image),
            MASK: encode_volume(drawn.mask),
            TRUTH: encode_volume(drawn.foreground),
            "json": encode_json(None, place),
        }


IMPORTER = Phantom3d
