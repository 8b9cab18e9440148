"""Volumes of 16 voxels a side with a block in noise, which a V-Net takes whole."""

from pathlib import Path

import numpy as np

from uml_shards.format.volume import encode_volume
from uml_shards.importers import Options, Source
from uml_shards.sources.encode import encode_json
from uml_shards.write.writer import write_split
from volume_recipe import Balls


class Blocks(Balls):
    """Six volumes with blocks of different lengths."""

    def splits(self) -> dict[str, Source]:
        return {"train": Source(range(6), mask_classes=("background", "block"))}

    def encode(self, item: int) -> tuple[str, dict[str, bytes]]:
        generator = np.random.default_rng(item)
        mask = np.zeros((16, 16, 16), dtype=np.uint8)
        mask[3 : 8 + item, 4:12, 5:11] = 1
        image = (generator.normal(size=mask.shape) + 2 * mask).astype(np.float32)
        return f"case-{item}", {
            "npy": encode_volume(image), "mask.npy": encode_volume(mask), "json": encode_json(None)
        }  # fmt: skip


def make_blocks(folder: Path) -> Path:
    """Write the same volumes as shards of `train`, `val` and `test`."""
    importer = Blocks(options=Options())
    for split in ("train", "val", "test"):
        write_split(importer, split, importer.splits()["train"], folder / split, samples_per_shard=3, quiet=True)
    return folder
