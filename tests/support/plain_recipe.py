"""A recipe without weights that predicts from the colour of the image, and evaluations of it in any world."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from uml_dist.batch import Batch, Prediction
from uml_dist.distributed.global_batch import GlobalBatch
from uml_dist.evaluate import Predictor, evaluate_split
from uml_dist.metrics.cases import Cases
from uml_dist.recipes import MicroBatchResult, Progress, Recipe, Trained
from uml_shards.read.plan import InOrder
from uml_shards.read.split import open_split
from uml_shards.read.stream import Stream


class PlainRecipe(Recipe):
    """The redder, the more probable are malignant and lesion. Records the training mode of its networks."""

    name = "plain"

    def __init__(self, says_pixels: bool = True, says_images: bool = True) -> None:
        self.says_pixels, self.says_images = says_pixels, says_images
        self.training: set[bool] = set()
        self.batch_sizes: list[int] = []

    @property
    def networks(self) -> Mapping[str, Trained]:
        return {"plain": Trained(nn.Identity)}

    def counts(self, batches: Mapping[str, Batch], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raise AssertionError("this recipe is only evaluated")

    def step(
        self,
        batches: Mapping[str, Batch],
        targets: Mapping[str, Tensor],
        networks: Mapping[str, nn.Module],
        progress: Progress,
        whole: GlobalBatch,
    ) -> MicroBatchResult:
        raise AssertionError("this recipe is only evaluated")

    def predict(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Prediction:
        assert not torch.is_grad_enabled()
        self.training |= {network.training for network in networks.values()}
        self.batch_sizes.append(len(batch))
        red = networks["plain"](batch.image)[:, 0].double()
        pixel, image = red.sigmoid(), red.mean((1, 2)).sigmoid()
        images = {"image_probability": torch.stack([1 - image, image], 1).float(), "image_vacuity": image.float()}
        pixels = {"pixel_probability": torch.stack([1 - pixel, pixel], 1).float(), "pixel_vacuity": pixel.float()}
        return Prediction(**(images if self.says_images else {}), **(pixels if self.says_pixels else {}))


def evaluate(folder: str, batch_size: int, workers: int = 0, draws: int = 0, **recipe: Any) -> tuple[Cases, list[int]]:
    """The cases of a split on this rank, and the sizes of the batches that it predicted."""
    split = open_split(folder)
    assert split.manifest.size is not None
    plain = PlainRecipe(**recipe)
    networks = {"plain": nn.Identity(), "resting": nn.Identity().eval()}
    predictor = Predictor(plain, networks, torch.device("cpu"))
    stream = Stream(split, InOrder(len(split)), split.manifest.size, split.manifest.statistics)
    cases = evaluate_split(predictor, stream, batch_size, workers, draws)
    assert plain.training <= {False}
    assert (networks["plain"].training, networks["resting"].training) == (True, False)
    return cases, plain.batch_sizes
