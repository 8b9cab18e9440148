"""Predictions for images and volumes of any size, from windows of the size that the network is trained with.

Windows overlap. Along each axis, the weights of all windows that cover a place sum to one, so the weighted sum of their
predictions is a mean, and where only one window is, the result is exactly its prediction.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from math import ceil, prod

import torch
from torch import Tensor

from uml_shards.sample import IGNORE

from ..batch import Batch, Prediction
from ..config.evaluating import Border, WindowsConfig, WindowWeights
from ..errors import UmlError
from ..nn.keyed_dropout import keyed_bits
from .blending import Blend, Place

DEVIATION = 1 / 8
"""Standard deviation of Gaussian weights as a share of the window, the value of nnU-Net and MONAI."""


@dataclass(frozen=True)
class Windows:
    """How windows are laid over an image.

    Attributes:
        size: (H, W) or (H, W, D) of a window.
        stride: distance between neighbouring windows along each axis; the last one ends where the image ends.
        weights: weights of the pixels of a window.
        batch: windows per forward pass.
        border: how an image smaller than a window is continued around its centre: "mirror" reflects it, "constant"
            continues with 0, the mean intensity of normalised images.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    weights: WindowWeights = "gaussian"
    batch: int = 4
    border: Border = "mirror"

    @classmethod
    def of(cls, config: WindowsConfig, size: Sequence[int]) -> "Windows":
        """Return the windows of a configuration.

        Args:
            config: the table `[windows]`.
            size: size of a window.

        Raises:
            UmlError: the stride has another number of axes, or leaves gaps between the windows.
        """
        stride = config.stride or tuple(max(1, side // 2) for side in size)
        stride = (stride,) * len(size) if isinstance(stride, int) else stride
        windows = " x ".join(map(str, size))
        if len(stride) != len(size):
            raise UmlError(f"windows.stride = {list(stride)} does not fit windows of {windows}: give a number per axis")
        if any(step > side for step, side in zip(stride, size, strict=True)):
            raise UmlError(f"windows.stride = {list(stride)} leaves gaps between windows of {windows}: make it smaller")
        return cls(tuple(size), stride, config.weights, config.batch, config.border)

    def __str__(self) -> str:
        size, stride = (" x ".join(map(str, sides)) for sides in (self.size, self.stride))
        return f"{size}, every {stride}, {self.weights} weights, {self.border} border"

    def predict(self, batch: Batch, predict: Callable[[Batch], Prediction]) -> Prediction:
        """Return the prediction for a batch of images of one size, which may be any.

        All predictions of pixels are blended alike. A prediction of the image is the mean of the windows', weighted by
        the share of the image that each determines.

        Args:
            batch: the images.
            predict: returns the prediction for a batch of windows. They have the labels and names of their image, a
                random key of their own, and no mask.
        """
        size = batch.image.shape[2:]
        if tuple(size) == self.size:
            return predict(batch)
        before = [max(window - side, 0) // 2 for side, window in zip(size, self.size, strict=True)]
        image = self._enlarged(batch.image, before)
        blend = Blend(len(batch), image.shape[2:])
        for windows, places in self._batches(batch, image):
            blend.add(places, predict(windows))
        return blend.prediction([slice(start, start + side) for start, side in zip(before, size, strict=True)])

    def _enlarged(self, image: Tensor, before: Sequence[int]) -> Tensor:
        """Return images (B, channels, *S) of at least the size of a window, with `before` pixels before each axis."""
        for axis, (start, window) in enumerate(zip(before, self.size, strict=True), 2):
            side = image.shape[axis]
            if side >= window:
                continue
            place = torch.arange(-start, window - start, device=image.device)
            last = side - 1
            image = image.index_select(axis, last - (place % max(2 * last, 1) - last).abs())
            if self.border == "constant":
                inside = (place >= 0) & (place < side)
                image = torch.where(inside.view(-1, *(1,) * (image.dim() - 1 - axis)), image, 0.0)
        return image

    def _batches(self, batch: Batch, image: Tensor) -> Iterator[tuple[Batch, list[Place]]]:
        """Yield the windows in batches, sample by sample, with their places."""
        size = image.shape[2:]
        axes = [axis_of(*one, self.weights) for one in zip(size, self.size, self.stride, strict=True)]
        windows = ((sample, *numbered) for sample in range(len(batch)) for numbered in enumerate(product(*axes)))
        while chosen := list(islice(windows, self.batch)):
            places = [_place(sample, starts, size, image.device) for sample, _, starts in chosen]
            images = torch.stack([image[(place.sample, slice(None), *place.inside)] for place in places])
            numbers = torch.tensor([number for _, number, _ in chosen], device=batch.rng_key.device)
            yield _rows(batch, [place.sample for place in places], images, numbers), places


def axis_of(side: int, window: int, stride: int, weights: WindowWeights) -> list[tuple[int, Tensor]]:
    """Return start and weights (window,) float64 of each window along an axis of `side` pixels.

    There is one every `stride` pixels, and one that ends where the axis ends.
    """
    starts = [min(step * stride, side - window) for step in range(ceil((side - window) / stride) + 1)]
    away = (torch.arange(window, dtype=torch.float64) - (window - 1) / 2) / (DEVIATION * window)
    profile = torch.exp(-0.5 * away**2) if weights == "gaussian" else torch.ones_like(away)
    total = torch.zeros(side, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += profile
    return [(start, profile / total[start : start + window]) for start in starts]


def _place(sample: int, axes: Sequence[tuple[int, Tensor]], size: Sequence[int], device: torch.device) -> Place:
    """Return the place of a window, given by its start and weights along each axis, in an image of a size."""
    inside = tuple(slice(start, start + len(weights)) for start, weights in axes)
    share = prod(float(weights.sum()) / side for (_, weights), side in zip(axes, size, strict=True))
    weight = torch.ones((), dtype=torch.float64, device=device)
    for _, weights in axes:  # only these small ones are copied to the device
        weight = weight.unsqueeze(-1) * weights.to(device)
    return Place(sample, inside, weight.float(), share)


def _rows(batch: Batch, samples: Sequence[int], images: Tensor, numbers: Tensor) -> Batch:
    """Return the batch of some windows.

    Args:
        batch: the batch of the images.
        samples: (N,), each window's image.
        images: (N, channels, *S), the windows.
        numbers: (N,), their numbers in their image.
    """
    rows = torch.tensor(samples, device=batch.label.device)
    lesions = batch.mask.shape[1 : batch.mask.dim() - images[0, 0].dim()]
    return replace(
        batch,
        image=images,
        mask=batch.mask.new_full((len(samples), *lesions, *images.shape[2:]), IGNORE),
        label=batch.label[rows],
        weight=batch.weight[rows],
        rng_key=keyed_bits(batch.rng_key[rows], "window", numbers),
        position=batch.position[rows],
        keys=tuple(batch.keys[sample] for sample in samples),
        meta=tuple(batch.meta[sample] for sample in samples) if batch.meta else (),
    )
