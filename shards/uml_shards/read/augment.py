"""Augmentation of images, keyed by position: the same for any rank, worker or restart."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..keyed import keyed_uniform
from ..sample import IGNORE, Sample

SCALE = 0.1
"""Largest relative change of scale in the `light` augmentation."""


T = TypeVar("T", bound=np.generic)


def light(sample: Sample, *key: str | int) -> Sample:
    """Apply random flips, quarter turns (half turns if height and width differ) and scaling within +-10 %.

    The mask is transformed in the same way, with nearest-neighbour sampling. Outside the original frame, the mask is
    255 = ignore and the image repeats its edge.

    Args:
        sample: an image, not a volume; it is not modified.
        key: random key, such as (seed, stream, position).
    """
    flip_rows, flip_columns, turns, scale = (
        float(keyed_uniform(*key, operation)) for operation in ("flip rows", "flip columns", "turn", "scale")
    )
    height, width = sample.image.shape[:2]
    quarter_turns = int(turns * 4) if height == width else 2 * int(turns * 2)

    def turn(array: NDArray, axes: tuple[int, int]) -> NDArray:
        array = np.flip(array, axes[0]) if flip_rows < 0.5 else array
        array = np.flip(array, axes[1]) if flip_columns < 0.5 else array
        return np.ascontiguousarray(np.rot90(array, quarter_turns, axes))

    factor = 1.0 + SCALE * (2.0 * scale - 1.0)
    image = _scale_image(turn(sample.image, (0, 1)), factor)
    mask = None if sample.mask is None else _scale_mask(turn(sample.mask, (-2, -1)), factor)
    return replace(sample, image=image, mask=mask)


AUGMENTATIONS: dict[str, Callable[..., Sample] | None] = {"none": None, "light": light}
"""Augmentations of images."""


def resize(sample: Sample, size: tuple[int, ...]) -> Sample:
    """Resize a sample to (height, width): the image bilinear with anti-aliasing, the mask by nearest neighbour."""
    height, width = sample.image.shape[:2]
    if (height, width) == size:
        return sample
    image = _resample(sample.image, size, (0.0, 0.0, float(width), float(height)))
    return replace(sample, image=image, mask=None if sample.mask is None else resize_mask(sample.mask, size))


def resize_mask(mask: NDArray[T], size: tuple[int, ...]) -> NDArray[T]:
    """Resize a mask (..., H, W), or another map of its pixels, to (height, width) by nearest neighbour."""
    rows, columns = (_nearest(new, old, 1.0) for new, old in zip(size, mask.shape[-2:], strict=True))
    return np.ascontiguousarray(mask[..., rows[:, None], columns])


def _resample(image: NDArray, size: tuple[int, ...], box: tuple[float, float, float, float]) -> NDArray:
    """Resize a box (left, top, right, bottom) of an image (H, W, channels) to (height, width), bilinear."""
    shape = (size[1], size[0])
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR, box=box))
    channels = [
        Image.fromarray(image[..., channel].astype(np.float32)).resize(shape, Image.Resampling.BILINEAR, box=box)
        for channel in range(image.shape[2])
    ]
    return np.rint(np.stack([np.asarray(channel) for channel in channels], axis=-1)).astype(image.dtype)


def _scale_image(image: NDArray, factor: float) -> NDArray:
    """Scale an image by a factor about its centre, keeping its size."""
    height, width = image.shape[:2]
    pad = 0 if factor >= 1.0 else int(np.ceil(max(height, width) * (1.0 / factor - 1.0) / 2.0))
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge") if pad else image
    half_height, half_width = height / factor / 2.0, width / factor / 2.0
    row, column = pad + height / 2.0, pad + width / 2.0
    box = (column - half_width, row - half_height, column + half_width, row + half_height)
    return _resample(np.ascontiguousarray(padded), (height, width), box)


def _scale_mask(mask: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """Scale a mask (..., H, W) by a factor about its centre, keeping its size."""
    height, width = mask.shape[-2:]
    rows, columns = _nearest(height, height, factor), _nearest(width, width, factor)
    # One axis after the other takes a third of the time of both at once.
    scaled = mask.take(rows.clip(0, height - 1), axis=-2).take(columns.clip(0, width - 1), axis=-1)
    scaled[..., (rows < 0) | (rows >= height), :] = IGNORE
    scaled[..., (columns < 0) | (columns >= width)] = IGNORE
    return scaled


def _nearest(new: int, old: int, factor: float) -> NDArray[np.int64]:
    """Return the old row (or column) at the centre of each new one; out of range outside the old frame."""
    centre = (np.arange(new) + 0.5) / new * old
    return np.floor((centre - old / 2.0) / factor + old / 2.0).astype(np.int64)
