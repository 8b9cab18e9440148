"""The phantom of fundus photographs: generated from a seed. See `phantom_retinas`."""

from typing import Any

from ..errors import ShardError
from ..sources.encode import encode_grey, encode_image, encode_json
from . import phantom_retinas as phantom
from .base import Importer, Source
from .grade_tables import GRADES, TASKS
from .phantom import numbered

COUNTS = {"train": 800, "val": 100, "test": 120}
"""Default number of images of each split."""

SMALLEST = 48
"""Smallest size at which microaneurysms are visible."""


class PhantomFundus(Importer):
    """Generates photographs instead of reading them; an item is (split, number)."""

    name = "phantom_fundus"
    summary = "synthetic fundus photographs: four kinds of overlapping lesions, graded by their kinds; made in seconds"
    licence = "Apache-2.0, made by this program"
    source = "uml_shards.importers.phantom_retinas: procedural, nothing to cite"
    where = "nothing to download: generated from --seed"
    tree = "no RAW"
    default_size = 64
    needs_raw = False

    def splits(self) -> dict[str, Source]:
        """Return train, val and test; a split with a count of 0 is omitted.

        Raises:
            ShardError: a count is negative or for an unknown split, or the size is too small.
        """
        if self.size < SMALLEST:
            raise ShardError(
                f"phantom_fundus: size {self.size} is too small to show microaneurysms: use {SMALLEST} or more"
            )
        return {
            split: Source(
                items=items,
                classes=GRADES,
                mask_names=phantom.LESIONS,
                tasks=TASKS,
            )
            for split, items in numbered(self, COUNTS).items()
        }

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        """Generate one photograph and encode it with its masks, its grade and the numbers of its lesions."""
        split, number = item
        drawn = phantom.draw(self.options.seed, split, number, self.size)
        extension, image = encode_image(drawn.image, self.options.lossless)
        masks = zip(phantom.LESIONS, drawn.masks, strict=True)
        return f"{split}-{number:06d}", {
            extension: image,
            **{f"mask.{name}.png": encode_grey(mask) for name, mask in masks},
            "json": encode_json(drawn.grade, {"lesions": drawn.counts}),
        }


IMPORTER = PhantomFundus
