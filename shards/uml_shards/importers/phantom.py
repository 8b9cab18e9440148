"""The phantom: a data set generated from a seed, stored with its true probabilities. See `phantom_pictures`."""

from collections.abc import Mapping
from typing import Any

from ..errors import ShardError
from ..read.truth import CLASS_PROBABILITY, TRUTH
from ..sources.encode import encode_grey, encode_image, encode_json
from . import phantom_pictures as phantom
from .base import Importer, Source

COUNTS = {"train": 2048, "val": 512, "test": 512}
"""Default number of samples of each split."""


class PhantomImporter(Importer):
    """Generates images instead of reading them; an item is (split, number)."""

    name = "phantom"
    summary = "synthetic skin lesions with known truth: benign / malignant by border and texture, generated in seconds"
    licence = "Apache-2.0, made by this program"
    source = "uml_shards.importers.phantom_pictures: procedural, nothing to cite"
    where = "nothing to download: generated from --seed"
    tree = "no RAW"
    default_size = 96
    needs_raw = False

    def splits(self) -> dict[str, Source]:
        """Return train, val and test; a split with a count of 0 is omitted.

        Raises:
            ShardError: a count is negative or for an unknown split, or the size is too small.
        """
        if self.size < 16:
            raise ShardError(f"phantom: size {self.size} is too small to show a border: use 16 or more")
        return {
            split: Source(
                items=items,
                classes=("benign", "malignant"),
                mask_classes=("background", "lesion"),
                tasks={"malignant": (1,)},
            )
            for split, items in numbered(self, COUNTS).items()
        }

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        """Generate one image and encode it with its true probabilities."""
        split, number = item
        drawn = phantom.draw(self.options.seed, split, number, self.size)
        extension, image = encode_image(drawn.image, self.options.lossless)
        truth = {CLASS_PROBABILITY: [(1000 - drawn.malignant) / 1000, drawn.malignant / 1000]}
        return f"{split}-{number:06d}", {
            extension: image,
            "mask.png": encode_grey(drawn.mask),
            TRUTH: encode_grey(drawn.foreground),
            "json": encode_json(drawn.label, truth),
        }


IMPORTER = PhantomImporter


def numbered(importer: Importer, default: Mapping[str, int]) -> dict[str, list[tuple[str, int]]]:
    """Return the items (split, number) of each split of generated data; a split with a count of 0 is omitted.

    Args:
        importer: the importer, whose options may state other counts.
        default: number of samples of each split.

    Raises:
        ShardError: a count is negative or for an unknown split.
    """
    counts = {**default, **importer.options.counts}
    for split, count in counts.items():
        if split not in default or count < 0:
            raise ShardError(
                f"{importer.name}: count {split}={count}: the split must be one of {', '.join(default)}, and the count "
                "not negative"
            )
    return {split: [(split, number) for number in range(count)] for split, count in counts.items() if count}
