"""Volumes with a bright ball in noise, and a minimal recipe for labelled and unlabelled volumes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from uml_dist.batch import Batch, Prediction
from uml_dist.distributed.global_batch import GlobalBatch
from uml_dist.nn.keyed_dropout import KeyedDropout, use_rng_key
from uml_dist.recipes import RECIPES, MicroBatchResult, Progress, Recipe, StreamContract, Trained
from uml_shards.format.volume import encode_volume
from uml_shards.importers import Importer, Options, Source
from uml_shards.sources.encode import encode_json
from uml_shards.write.writer import write_split

RECIPES["volume"] = "volume_recipe:VolumeRecipe"


class Balls(Importer):
    """Ten volumes of different sizes; cases in `garbage` have random masks."""

    name = summary = licence = source = where = tree = "balls"
    default_size = 0
    needs_raw = False
    garbage: frozenset[str] = frozenset()

    def splits(self) -> dict[str, Source]:
        return {"train": Source(range(10), mask_classes=("background", "ball"))}

    def encode(self, item: int) -> tuple[str, dict[str, bytes]]:
        generator = np.random.default_rng(item)
        shape = tuple(generator.integers(7, 14, 3))
        away = np.linalg.norm(np.stack(np.indices(shape), -1) - np.asarray(shape) / 2, axis=-1)
        mask = (away < 3).astype(np.uint8)
        image = (generator.normal(size=shape) + 3 * mask).astype(np.float32)
        key = f"case-{item}"
        if key in self.garbage:
            mask = generator.integers(0, 2, shape, dtype=np.uint8)
        return key, {"npy": encode_volume(image), "mask.npy": encode_volume(mask), "json": encode_json(None)}


def make_balls(folder: Path, garbage: frozenset[str] = frozenset()) -> Path:
    """Write the same volumes as shards of `train` and `val`."""
    importer = Balls(options=Options())
    importer.garbage = garbage
    for split in ("train", "val"):
        write_split(importer, split, importer.splits()["train"], folder / split, samples_per_shard=4, quiet=True)
    return folder


class VolumeRecipe(Recipe):
    name = "volume"
    streams: ClassVar = {
        "labelled": StreamContract(masks="exclusive"),
        "unlabelled": StreamContract(masks="exclusive"),
    }
    dimensions = 3

    @property
    def networks(self) -> Mapping[str, Any]:
        return {
            "net": Trained(lambda: nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), KeyedDropout(0.2), nn.Conv3d(4, 2, 1)))
        }

    def counts(self, batches: Mapping[str, Batch], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            "voxels": (batches["labelled"].mask != 255).sum(),
            "unlabelled": (batches["unlabelled"].mask == 255).sum(),
        }

    def step(
        self,
        batches: Mapping[str, Batch],
        targets: Mapping[str, Tensor],
        networks: Mapping[str, nn.Module],
        progress: Progress,
        whole: GlobalBatch,
    ) -> MicroBatchResult:
        known, free = batches["labelled"], batches["unlabelled"]
        assert (free.mask == 255).all()
        with use_rng_key(known.rng_key):
            logits = networks["net"](known.image).float()
        with use_rng_key(free.rng_key):
            probability = networks["net"](free.image).float().softmax(1)
        each = nn.functional.cross_entropy(logits, known.mask.long(), ignore_index=255, reduction="sum")
        supervised = whole.mean(each, "voxels")
        unsure = whole.mean((probability[:, 0] * probability[:, 1]).sum(), "unlabelled")
        total = supervised + 0.1 * unsure
        return MicroBatchResult({"net": total}, {"loss": total})

    def predict(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Prediction:
        return Prediction(pixel_probability=networks["net"](batch.image).float().softmax(1))
