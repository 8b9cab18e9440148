"""The adversary: what the discriminator sees, its loss, and how often it is right."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...batch import Batch
from ...distributed.global_batch import GlobalBatch
from .objective import CollabObjective
from .terms import judgement_loss

Maps = Mapping[str, Tensor]
"""Name of a stream -> the lesions' probability (B, L, H, W) in its images."""


@dataclass(frozen=True)
class Adversary:
    """Lesion maps before the discriminator, which takes those of the stream `pixel` for real.

    Attributes:
        objective: the configuration.
        batches: the images of the streams `pixel` and `image`.
    """

    objective: CollabObjective
    batches: Mapping[str, Batch]

    def deception(self, discriminator: Callable[[Tensor], Tensor], maps: Tensor, whole: GlobalBatch) -> Tensor:
        """Return the loss of maps of images with grades that are not taken for real."""
        image = self.batches["image"]
        return judgement_loss(discriminator(self._input(maps, image)), image.weight, 1.0, whole, "images")

    def loss(self, discriminator: Callable[[Tensor], Tensor], maps: Maps, whole: GlobalBatch) -> Tensor:
        """Return the discriminator's loss: the sum of the means over real and over other maps."""
        pixel, image = self._judge(discriminator, maps)
        smoothing = self.objective.label_smoothing
        real = judgement_loss(pixel, self.batches["pixel"].weight, 1.0 - smoothing, whole, "pixel_images")
        return real + judgement_loss(image, self.batches["image"].weight, smoothing, whole, "images")

    def right(self, discriminator: Callable[[Tensor], Tensor], maps: Maps) -> Tensor:
        """Return the number of images that the discriminator assigns to the right stream."""
        pixel, image = (judged > 0 for judged in self._judge(discriminator, maps))
        of_pixel, of_image = (self.batches[name].weight > 0 for name in ("pixel", "image"))
        return (pixel & of_pixel).sum() + (~image & of_image).sum()

    def _judge(self, discriminator: Callable[[Tensor], Tensor], maps: Maps) -> tuple[Tensor, Tensor]:
        """Return the logits of the images of both streams."""
        pixel, image = self.batches["pixel"], self.batches["image"]
        real = self._masks() if self.objective.discriminator_real == "masks" else maps["pixel"]
        judged = discriminator(torch.cat([self._input(real, pixel), self._input(maps["image"], image)]))
        return judged[: len(pixel)], judged[len(pixel) :]

    def _masks(self) -> Tensor:
        """Return the labelled masks, smoothed like the targets: two values alone would give them away."""
        smoothing = self.objective.label_smoothing
        return smoothing + (1.0 - 2.0 * smoothing) * (self.batches["pixel"].mask == 1).float()

    def _input(self, maps: Tensor, batch: Batch) -> Tensor:
        """Return what the discriminator sees of maps."""
        if self.objective.discriminator_input == "maps":
            return maps
        return torch.cat([maps, batch.image.to(maps.dtype)], 1)
