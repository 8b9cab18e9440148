"""A recipe whose prediction has the outputs of UML but few operations, so that its graph is captured in seconds."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from uml_dist.batch import Batch, Prediction
from uml_dist.recipes import RECIPES, Trained
from uml_dist.recipes.uml.recipe import UmlRecipe
from uml_kernels import opinion

RECIPES["small"] = "small_recipe:SmallRecipe"


class SmallNetwork(nn.Module):
    """Classifies images and pixels at half their size; branches on a flag, as the grader of `collab` does.

    Images whose sides are odd are padded inside.
    """

    started: Tensor

    def __init__(self, channels: int, classes: int, pixel_classes: int) -> None:
        super().__init__()
        self.shrink = nn.Conv2d(channels, 6, 3, stride=2, padding=1)
        self.classify, self.segment = nn.Linear(6, classes), nn.Conv2d(6, pixel_classes, 1)
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        height, width = image.shape[2:]
        padding = (0, -width % 2, 0, -height % 2)
        image = functional.pad(image, padding, mode="replicate") if any(padding) else image
        feature = functional.relu(self.shrink(image))
        if self.started:
            feature = feature * 2
        with torch.autocast(image.device.type, enabled=False):  # a graph within the graph
            scores = functional.interpolate(self.segment(feature), image.shape[2:], mode="bilinear", align_corners=True)
        return 5 * self.classify(feature.mean((2, 3))), 5 * scores[..., :height, :width]


class SmallRecipe(UmlRecipe):
    """UML's opinions of image and pixels, from a network of three layers."""

    name = "small"

    @property
    def side_multiple(self) -> int:
        return 2

    @property
    def networks(self) -> dict[str, Any]:
        manifest = self.manifest
        return {
            "net": Trained(lambda: SmallNetwork(manifest.channels, len(manifest.classes), len(manifest.mask_classes)))
        }

    def predict(self, batch: Batch, networks: Any) -> Prediction:
        image, pixels = (opinion(logits) for logits in networks["net"](batch.image))
        return Prediction(
            image_probability=image.probability,
            pixel_probability=pixels.probability,
            image_vacuity=image.vacuity,
            pixel_vacuity=pixels.vacuity,
            maps={"steep mask": torch.sigmoid(100 * (pixels.probability[:, 1] - 0.5))},
        )
