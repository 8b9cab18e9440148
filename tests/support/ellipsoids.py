"""Small volumes with an ellipsoid in noise, and configurations of `ugmcl` for them."""

from pathlib import Path
from typing import Any

import numpy as np

from uml_shards.format.volume import encode_volume
from uml_shards.importers import Options, Source
from uml_shards.sources.encode import encode_json
from uml_shards.write.writer import write_split
from volume_recipe import Balls

CASES = 6
LABELLED = ("case-1", "case-4")


class Ellipsoids(Balls):
    """Six volumes of about 20 voxels a side; cases in `garbage` have random masks."""

    def splits(self) -> dict[str, Source]:
        return {"train": Source(range(CASES), mask_classes=("background", "ellipsoid"))}

    def encode(self, item: int) -> tuple[str, dict[str, bytes]]:
        generator = np.random.default_rng(item)
        shape = tuple(generator.integers(17, 24, 3))
        radii = generator.uniform(4, 7, 3)
        places = np.stack(np.indices(shape), -1)
        inside = (((places - np.asarray(shape) / 2) / radii) ** 2).sum(-1) < 1
        mask = inside.astype(np.uint8)
        image = (generator.normal(size=shape) + 3 * mask).astype(np.float32)
        key = f"case-{item}"
        if key in self.garbage:
            mask = generator.integers(0, 2, shape, dtype=np.uint8)
        return key, {"npy": encode_volume(image), "mask.npy": encode_volume(mask), "json": encode_json(None)}


def make_ellipsoids(folder: Path, garbage: frozenset[str] = frozenset()) -> Path:
    """Write the volumes as shards of `train` and `val`."""
    importer = Ellipsoids(options=Options())
    importer.garbage = garbage
    for split in ("train", "val"):
        write_split(importer, split, importer.splits()["train"], folder / split, samples_per_shard=3, quiet=True)
    return folder


def labelled_list(folder: Path) -> Path:
    """Write the list of the labelled cases."""
    path = folder / "labelled.txt"
    path.write_text("\n".join(LABELLED) + "\n")
    return path


def ugmcl_tree(shards: Path, ids: Path, **objective: Any) -> dict[str, Any]:
    """Return a configuration of a narrow V-Net on patches of 16 voxels a side."""
    stream = {"shards": str(shards), "count": 2, "labelled_ids": str(ids)}
    return {
        "recipe": "ugmcl",
        "streams": {"labelled": {**stream, "part": "labelled"}, "unlabelled": {**stream, "part": "unlabelled"}},
        "data": {"workers": 0, "size": [16, 16, 16]},
        "model": {"width": 0.25},
        "objective": {"ramp": "constant", "slope": 20, **objective},
        "train": {"steps": 4, "log_every": 1, "validate_every": 1000},
        "checkpoint": {"every": 1, "keep": 100},
        "metrics": {"enabled": False},
    }
