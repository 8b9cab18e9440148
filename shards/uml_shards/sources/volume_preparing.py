"""From a volume as it was read to the components of a sample: clipped, scaled, resampled."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator

from ..errors import ShardError
from ..format.volume import IMAGE, MASK, encode_volume
from .encode import encode_json
from .raw_volume import missing_library, refuse_large
from .volume_files import Volume

Intensity = Literal["keep", "volume"]
"""keep: numbers as they are; volume: of each channel of each volume, minus its mean and over its deviation."""

_SAME = 1e-3
"""Share by which two spacings may differ and are the same: headers are rounded."""


def _numbers(text: Any) -> Any:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if isinstance(text, str) else text


def _check_spacing(given: tuple[float, ...]) -> tuple[float, ...]:
    if len(given) not in (0, 3) or not all(0 < side < math.inf for side in given):
        raise ValueError("must be 3 positive numbers, mm along x, y and z, such as 1,1,1; or empty")
    return given


def _check_window(given: tuple[float, ...]) -> tuple[float, ...]:
    if given and not (len(given) == 2 and -math.inf < given[0] < given[1] < math.inf):
        raise ValueError("must be low,high, such as -200,300; or empty")
    return given


Spacing = Annotated[tuple[float, ...], BeforeValidator(_numbers), AfterValidator(_check_spacing)]
"""Mm along x, y and z, typed with commas; () leaves volumes as they are stored."""

Window = Annotated[tuple[float, ...], BeforeValidator(_numbers), AfterValidator(_check_window)]
"""(low, high), typed with a comma; () clips nothing."""


@dataclass(frozen=True)
class Preparation:
    """What is done to a volume.

    Attributes:
        spacing: mm along each axis of what is stored; () leaves it.
        window: (low, high) that values are clipped to; () clips nothing.
        intensity: of every channel, or of each.
    """

    spacing: tuple[float, ...] = ()
    window: tuple[float, ...] = ()
    intensity: Intensity | Sequence[Intensity] = "keep"


def encode_prepared(
    image: Volume, mask: NDArray[np.uint8] | None, how: Preparation, path: Path, label: int | None = None
) -> dict[str, bytes]:
    """The components of a sample; of where it comes from they tell spacing and affine only.

    Args:
        image: by `read_volume`.
        mask: (H, W, D) class numbers, on the same voxels.
        how: what to do.
        path: of the image, for errors.
        label: image class.

    Raises:
        ShardError: the volume cannot be scaled or resampled so.
    """
    prepared = resample(scale(image, how, path), how.spacing, path)
    meta = {"spacing": list(prepared.spacing), "affine": prepared.affine.tolist()}
    components = {IMAGE: encode_volume(prepared.values), "json": encode_json(label, meta)}
    if mask is not None:
        drawn = Volume(mask, image.affine, image.stated)
        components[MASK] = encode_volume(resample(drawn, how.spacing, path, nearest=True).values)
    return components


def scale(image: Volume, how: Preparation, path: Path) -> Volume:
    """Clip, then scale by the volume's own numbers where that is asked for; those of voxels that are 0 do not count.

    MRI has no unit of its own, and a background of 0 that is larger or smaller in each volume.

    Raises:
        ShardError: a channel that is to be scaled is constant, or there are not as many as `how` speaks of.
    """
    channels = image.values[..., None] if image.values.ndim == 3 else image.values
    count = channels.shape[3]
    kinds = [how.intensity] * count if isinstance(how.intensity, str) else list(how.intensity)
    if len(kinds) != count:
        raise ShardError(f"{path} has {count} channels, must have {len(kinds)}")
    clipped = _clip(channels, how.window) if how.window else channels
    if "volume" in kinds:
        scaled = np.empty(clipped.shape, np.float32)
        for number, kind in enumerate(kinds):
            inside = clipped[..., number][channels[..., number] != 0]
            shift, width = _deviation(inside, path) if kind == "volume" else (0.0, 1.0)
            scaled[..., number] = (clipped[..., number] - shift) / width
        clipped = scaled
    return Volume(clipped.reshape(image.values.shape), image.affine, image.stated)


def resample(volume: Volume, spacing: Sequence[float], path: Path, nearest: bool = False) -> Volume:
    """The same part of the patient in voxels of another size; the centre stays where it is.

    Linear, after a Gaussian where the voxels become larger, so that nothing finer than they are is left to flicker.

    Args:
        volume: its whole numbers stay whole.
        spacing: mm along each axis; () leaves the volume.
        path: of it, for errors.
        nearest: take the nearest voxel, of a mask.

    Returns:
        round(shape * old spacing / new spacing) voxels, at least 1 along each axis.

    Raises:
        ShardError: scipy is missing, the file does not tell its spacing, or there would be too many voxels.
    """
    ratio = np.asarray([new / old for new, old in zip(spacing, volume.spacing, strict=False)])
    ratio[np.abs(ratio - 1) < _SAME] = 1
    if (ratio == 1).all():
        return volume
    if not volume.stated:
        raise ShardError(f"{path} does not tell the size of its voxels: leave the setting spacing empty, or store it")
    shape = np.asarray(volume.values.shape[:3])
    target = [max(1, round(side)) for side in shape / ratio]
    refuse_large((*target, *volume.values.shape[3:]), path)
    first = (shape - 1) / 2 - (np.asarray(target) - 1) / 2 * ratio
    move = np.diag([*ratio, 1.0])
    move[:3, 3] = first
    channels = volume.values[..., None] if volume.values.ndim == 3 else volume.values
    made = np.empty((*target, channels.shape[3]), volume.values.dtype)
    for number in range(channels.shape[3]):
        made[..., number] = _interpolate(channels[..., number], ratio, first, target, nearest, path)
    return Volume(made.reshape(*target, *volume.values.shape[3:]), volume.affine @ move)


def _interpolate(
    values: NDArray[Any],
    ratio: NDArray[np.float64],
    first: NDArray[np.float64],
    shape: Sequence[int],
    nearest: bool,
    path: Path,
) -> NDArray[Any]:
    """One channel at other points: `first`, and so on by `ratio`, in voxels."""
    try:
        from scipy import ndimage
    except ModuleNotFoundError:
        raise missing_library(path, "scipy") from None
    whole = values.dtype.kind != "f"
    if not nearest:
        values = values.astype(np.float32)
        if (ratio > 1).any():
            values = ndimage.gaussian_filter(values, np.maximum(0, (ratio - 1) / 2), mode="nearest")
    with warnings.catch_warnings(action="ignore"):  # older scipy warns of diagonal matrices always
        made = ndimage.affine_transform(
            values, ratio, first.tolist(), tuple(shape), order=int(not nearest), mode="nearest"
        )
    return np.rint(made) if whole else made


def _clip(values: NDArray[Any], window: tuple[float, ...]) -> NDArray[Any]:
    """Whole numbers stay whole where both ends are."""
    low, high = window
    if values.dtype.kind != "f":
        held = np.iinfo(values.dtype)
        low, high = max(low, float(held.min)), min(high, float(held.max))
        if not (low.is_integer() and high.is_integer() and low <= high):
            values, (low, high) = values.astype(np.float32), window
    return np.clip(values, values.dtype.type(low), values.dtype.type(high))


def _deviation(values: NDArray[Any], path: Path) -> tuple[float, float]:
    """Mean and standard deviation."""
    if not values.size or values.min() == values.max():
        raise ShardError(f"{path}: all its voxels that are not 0 are equal: take it away, or use intensity=keep")
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
