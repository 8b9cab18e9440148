"""Small images with dots and overlapping patches, graded by the number of kinds, and configurations of `collab`."""

from pathlib import Path
from typing import Any

import numpy as np

from uml_shards.importers import Importer, Options, Source
from uml_shards.sources.encode import encode_grey, encode_image, encode_json
from uml_shards.write.writer import write_split

SIDE = 32
LESIONS = ("dots", "patches")
GRADES = ("none", "one", "both")
MASKED = tuple(f"train-{number}" for number in (3, 5, 7, 10))


class Spots(Importer):
    """Images in noise, two thirds of which have dots, and as many patches; masks of images in `garbage` are random."""

    name = summary = licence = source = where = tree = "spots"
    default_size = SIDE
    needs_raw = False
    garbage: frozenset[str] = frozenset()
    number = 12

    def splits(self) -> dict[str, Source]:
        return {
            split: Source([(split, number) for number in range(self.number)], classes=GRADES, mask_names=LESIONS)
            for split in ("train", "val")
        }

    def encode(self, item: tuple[str, int]) -> tuple[str, dict[str, bytes]]:
        split, number = item
        generator = np.random.default_rng([number, split == "val"])
        has_dots, has_patches = number % 3 > 0, number % 4 > 1
        masks = np.zeros((2, SIDE, SIDE), dtype=np.uint8)
        if has_dots:
            rows, columns = generator.integers(2, SIDE - 2, (2, 8))
            masks[0, rows, columns] = masks[0, rows + 1, columns] = 1
        if has_patches:
            row, column = generator.integers(0, SIDE - 10, 2)
            masks[1, row : row + 10, column : column + 10] = 1
        image = generator.normal(110, 12, (SIDE, SIDE, 3))
        image += masks[0, :, :, None] * np.array([0, 70, 0]) + masks[1, :, :, None] * np.array([0, 0, 60])
        key = f"{split}-{number}"
        if key in self.garbage:
            masks = generator.integers(0, 2, masks.shape, dtype=np.uint8)
        extension, encoded = encode_image(image.clip(0, 255).astype(np.uint8), lossless=True)
        files = {f"mask.{name}.png": encode_grey(mask) for name, mask in zip(LESIONS, masks, strict=True)}
        return key, {extension: encoded, **files, "json": encode_json(has_dots + has_patches)}


def make_spots(folder: Path, garbage: frozenset[str] = frozenset(), number: int = 12) -> Path:
    """Write the images as shards of `train` and `val`."""
    importer = Spots(options=Options())
    importer.garbage, importer.number = garbage, number
    for split, source in importer.splits().items():
        write_split(importer, split, source, folder / split, samples_per_shard=4, quiet=True)
    return folder


def masked_list(folder: Path) -> Path:
    """Write the list of the images whose masks are known."""
    path = folder / "masked.txt"
    path.write_text("\n".join(MASKED) + "\n")
    return path


def collab_tree(shards: Path, ids: Path, model: dict[str, Any] | None = None, **objective: Any) -> dict[str, Any]:
    """Return a configuration of narrow networks, two steps in each of the five phases."""
    return {
        "recipe": "collab",
        "streams": {
            "pixel": {"shards": str(shards), "part": "labelled", "labelled_ids": str(ids), "count": 2},
            "image": {"shards": str(shards), "count": 4},
        },
        "data": {"workers": 0, "size": SIDE},
        "model": {"width": 0.125, **(model or {})},
        "objective": objective,
        "optimizer": {"lr": 1e-3},
        "phases": [{"name": name, "steps": 2} for name in ("lesions", "grades", "adversary", "attention", "together")],
        "train": {"log_every": 1, "validate_every": 1000},
        "checkpoint": {"every": 1, "keep": 100},
        "metrics": {"enabled": False},
    }
