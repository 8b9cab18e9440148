"""A split of generated images that is never written: for evaluations of more samples than a test can store."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from manifests import manifest_of
from uml_dist.batch import Batch, Prediction
from uml_dist.evaluate import Predictor, evaluate
from uml_dist.evaluate.results import DRAWS, metrics_record
from uml_shards.read.plan import InOrder
from uml_shards.read.stream import Stream
from uml_shards.sample import Sample

SIDE = 4


class SyntheticSplit:
    """Noisy images whose brighter pixels are lesion; half of them are malignant, with a brighter lesion."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        shard = manifest_of().shards[0].model_copy(update={"samples": samples})
        self.manifest = manifest_of(size=(SIDE, SIDE), shards=(shard,), labelled=samples, masked=samples)

    def __len__(self) -> int:
        return self.samples

    def keys(self) -> tuple[str, ...]:
        return tuple(f"case-{(number * 7919) % self.samples:06d}" for number in range(self.samples))

    def patients(self) -> tuple[str, ...]:
        return ("",) * self.samples

    def prefetch(self, number: int) -> None:
        pass

    def read(self, number: int) -> Sample:
        label = number % 2
        image = np.random.default_rng(number).integers(0, 200, (SIDE, SIDE, 3), dtype=np.uint8)
        mask = (image[..., 0] > 100).astype(np.uint8)
        image[mask == 1] += np.uint8(40 + 15 * label)
        return Sample(f"case-{(number * 7919) % self.samples:06d}", image, mask, label)


class BrightnessRecipe:
    """Predicts lesion, and malignant, from the brightness alone."""

    from uml_dist.metrics.families import STANDARD as families

    def predict(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Prediction:
        def opinion(score: Tensor) -> tuple[Tensor, Tensor]:
            probability = torch.stack([(-score).sigmoid(), score.sigmoid()], 1)
            return probability, (-score.abs()).exp()

        image, image_vacuity = opinion(3.0 * batch.image.mean((1, 2, 3)))
        pixel, pixel_vacuity = opinion(batch.image[:, 0])
        return Prediction(image, pixel, image_vacuity=image_vacuity, pixel_vacuity=pixel_vacuity)


def peak_of_this_program() -> float:
    """Return the peak of resident memory in MB; getrusage would include the process that started this program."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1e3  # type: ignore[index]


def main(samples: int) -> None:
    """Evaluate as the command does, and print metrics and the peak of resident memory in MB as JSON."""
    torch.set_num_threads(1)  # of operations this small, more threads take longer
    split = SyntheticSplit(samples)
    stream = Stream(split, InOrder(samples), (SIDE, SIDE), split.manifest.statistics)  # type: ignore[arg-type]
    predictor = Predictor(BrightnessRecipe(), {}, torch.device("cpu"))  # type: ignore[arg-type]
    result = evaluate(predictor, stream, 256, draws=DRAWS)
    record = metrics_record(result)
    print(json.dumps({"megabytes": peak_of_this_program(), "cases": len(result.cases), **record}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
