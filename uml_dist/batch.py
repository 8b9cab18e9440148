"""The input of a recipe (Batch) and its output for evaluation (Prediction)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uml_shards.format.manifest import Statistics
from uml_shards.keyed import keyed_bits
from uml_shards.read.stream import Stream
from uml_shards.sample import IGNORE, Sample


@dataclass(frozen=True)
class Batch:
    """Samples of one stream, on one device.

    Attributes:
        image: (B, channels, H, W) or (B, channels, H, W, D) float32, of mean 0 and deviation 1 over the split.
        mask: (B, H, W) or (B, H, W, D) uint8 class numbers, or (B, L, H, W) for overlapping lesions; 255 = ignore,
            everywhere for a sample without a mask.
        label: (B,) int64; -1 = absent.
        weight: (B,) float32; 0 for a placeholder, which no loss and no metric counts.
        rng_key: (B,) int64, the key of each sample's random numbers: (seed, stream, position) hashed.
        position: (B,) int64, its position in the stream.
        keys: names of the samples.
        meta: the other entries of each sample's json, such as `spacing` and `affine` of a volume; () without them.
    """

    image: Tensor
    mask: Tensor
    label: Tensor
    weight: Tensor
    rng_key: Tensor
    position: Tensor
    keys: tuple[str, ...]
    meta: tuple[Mapping[str, Any], ...] = ()

    def __len__(self) -> int:
        return len(self.label)

    def _each_tensor(self, change) -> "Batch":
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: change(value) for name, value in tensors.items() if isinstance(value, Tensor)})

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; the copy does not block when the batch is pinned."""
        return self._each_tensor(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory (called by the DataLoader)."""
        return self._each_tensor(Tensor.pin_memory)

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Reasons why samples were replaced by placeholders: kind, and description in words."""
        return tuple((str(meta["reason"]), str(meta["skipped"])) for meta in self.meta if "skipped" in meta)

    @property
    def spacing(self) -> Tensor:
        """(B, 3) float64, voxel size in mm along x, y, z; NaN where it is not known."""
        return self._from_meta("spacing", np.full(3, np.nan))

    @property
    def affine(self) -> Tensor:
        """(B, 4, 4) float64, voxel -> mm in RAS, of the stored volume; NaN where it is not known."""
        return self._from_meta("affine", np.full((4, 4), np.nan))

    def _from_meta(self, name: str, unknown: np.ndarray) -> Tensor:
        stated = [meta.get(name) for meta in self.meta or ({},) * len(self)]
        values = [unknown if value is None else value for value in stated]
        return torch.from_numpy(np.asarray(values, dtype=np.float64))

    @property
    def labelled(self) -> Tensor:
        """(B,) bool: samples whose label counts."""
        return (self.label >= 0) & (self.weight > 0)

    @property
    def masked(self) -> Tensor:
        """(B,) bool: samples whose mask has a pixel that counts."""
        return (self.mask != IGNORE).flatten(1).any(1) & (self.weight > 0)


def collate(stream: Stream, samples: Sequence[Sample], positions: Sequence[int]) -> Batch:
    """Make a batch of a stream's samples and their positions."""
    manifest = stream.split.manifest
    mean = np.asarray(stream.statistics.mean, dtype=np.float32)
    std = np.asarray(stream.statistics.std, dtype=np.float32)
    images = np.stack([normalise(sample.image, mean, std) for sample in samples])
    lesions = (len(manifest.mask_names),) if manifest.mask_names else ()
    masks = np.stack([_unknown_mask(sample, lesions) if sample.mask is None else sample.mask for sample in samples])
    place = np.asarray(positions, dtype=np.int64)
    return Batch(
        image=torch.from_numpy(images),
        mask=torch.from_numpy(masks),
        label=torch.tensor([-1 if sample.label is None else sample.label for sample in samples]),
        weight=torch.tensor([sample.weight for sample in samples], dtype=torch.float32),
        rng_key=torch.from_numpy(keyed_bits(stream.plan.seed, stream.name, place).view(np.int64)),
        position=torch.from_numpy(place),
        keys=tuple(sample.key for sample in samples),
        meta=tuple(dict(sample.meta) for sample in samples),
    )


def batch_of(images: Sequence[np.ndarray], statistics: Statistics) -> Batch:
    """Make a batch of images of which nothing is known, for a prediction.

    Args:
        images: images (H, W, channels) or volumes (H, W, D, channels) of equal shapes, in the type in which shards
            store them.
        statistics: statistics by which they are normalised.
    """
    mean, std = (np.asarray(values, dtype=np.float32) for values in (statistics.mean, statistics.std))
    normalised = torch.from_numpy(np.stack([normalise(image, mean, std) for image in images]))
    number = len(images)
    return Batch(
        image=normalised,
        mask=torch.full((number, *normalised.shape[2:]), IGNORE, dtype=torch.uint8),
        label=torch.full((number,), -1),
        weight=torch.ones(number),
        rng_key=torch.arange(number),
        position=torch.arange(number),
        keys=tuple(map(str, range(number))),
    )


def _unknown_mask(sample: Sample, lesions: tuple[int, ...]) -> np.ndarray:
    return np.full((*lesions, *sample.image.shape[:-1]), IGNORE, dtype=np.uint8)


def normalise(image: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """An image (..., channels) as (channels, ...) float32 of zero mean and unit deviation.

    Unsigned integers are scaled to [0, 1] first, as the statistics are.
    """
    # Channels apart first: arithmetic on whole planes takes a tenth of the time of that on three values a pixel.
    values = np.moveaxis(image, -1, 0).astype(np.float32, order="C")
    if image.dtype.kind == "u":
        values /= np.float32(np.iinfo(image.dtype).max)
    channels = (-1, *(1,) * (image.ndim - 1))
    values -= mean.reshape(channels)
    values /= np.maximum(std, np.float32(1e-6)).reshape(channels)
    return values


def _entropy(probability: Tensor | None) -> Tensor | None:
    return None if probability is None else torch.special.entr(probability).sum(1)


@dataclass(frozen=True)
class Prediction:
    """Predictions for a batch; a field is None where the recipe has no such task or no uncertainty.

    S stands for H, W of images, and for H, W, D of volumes.

    Attributes:
        image_probability: (B, K) float32, probability of each image class.
        pixel_probability: (B, C, *S) float32, probability of each pixel class.
        lesion_probability: (B, L, *S) float32, probability of each lesion; lesions may overlap.
        image_vacuity: (B,) float32 in (0, 1].
        pixel_vacuity: (B, *S) float32 in (0, 1].
        maps: further maps (B, *S) in [0, 1] by the title under which pictures show them.
        cleaned: (B, *S) uint8, the pixel classes if more than the probability decides them; recipes leave it None.
        thresholds: the probability of each of the L lesions from which on a pixel belongs to it; None: 0.5.
    """

    image_probability: Tensor | None = None
    pixel_probability: Tensor | None = None
    lesion_probability: Tensor | None = None
    image_vacuity: Tensor | None = None
    pixel_vacuity: Tensor | None = None
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    cleaned: Tensor | None = None
    thresholds: tuple[float, ...] | None = None

    @property
    def device(self) -> torch.device | None:
        """Device of its tensors; None without any."""
        values = (getattr(self, one.name) for one in fields(self))
        return next((value.device for value in values if isinstance(value, Tensor)), None)

    @property
    def pixel_class(self) -> Tensor | None:
        """(B, *S) uint8, the predicted class of each pixel: the most probable one, unless `cleaned` states it."""
        if self.cleaned is not None or self.pixel_probability is None:
            return self.cleaned
        return self.pixel_probability.argmax(1).to(torch.uint8)

    @property
    def lesions(self) -> Tensor | None:
        """(B, L, *S) bool, the predicted lesions of each pixel, by their thresholds."""
        probability = self.lesion_probability
        if probability is None or self.thresholds is None:
            return None if probability is None else probability >= 0.5
        least = torch.tensor(self.thresholds, device=probability.device)
        return probability >= least.view(-1, *(1,) * (probability.dim() - 2))

    @property
    def image_entropy(self) -> Tensor | None:
        """(B,), entropy of the image probability in nats."""
        return _entropy(self.image_probability)

    @property
    def pixel_entropy(self) -> Tensor | None:
        """(B, *S), entropy of the pixel probability in nats."""
        return _entropy(self.pixel_probability)
