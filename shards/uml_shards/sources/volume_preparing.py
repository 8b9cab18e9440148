"""Clip, scale and resample a volume, and encode it as components of a sample."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator

from ..errors import ShardError
from ..format.volume import IMAGE, MASK, encode_volume
from ..sample import IGNORE
from .encode import encode_json
from .masks import LOST
from .raw_volume import missing_library, refuse_large
from .volume_files import Volume

Intensity = Literal["keep", "volume"]
"""keep: unchanged values; volume: subtract the mean of each channel of the volume, divide by its standard deviation."""

_KEEP = ", or use intensity=keep"
"""The other remedy for a volume that cannot be standardised."""

_SAME = 1e-3
"""Relative difference up to which two spacings are considered equal, since headers are rounded."""


def _numbers(text: Any) -> Any:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if isinstance(text, str) else text


def _check_spacing(given: tuple[float, ...]) -> tuple[float, ...]:
    if len(given) not in (0, 3) or not all(0 < side < math.inf for side in given):
        raise ValueError("must be 3 positive numbers in mm along x, y and z, such as 1,1,1; or empty")
    return given


def _check_window(given: tuple[float, ...]) -> tuple[float, ...]:
    if given and not (len(given) == 2 and -math.inf < given[0] < given[1] < math.inf):
        raise ValueError("must be low,high, such as -200,300; or empty")
    return given


Spacing = Annotated[tuple[float, ...], BeforeValidator(_numbers), AfterValidator(_check_spacing)]
"""Voxel size in mm along x, y and z, given with commas; () keeps the stored spacing."""

Window = Annotated[tuple[float, ...], BeforeValidator(_numbers), AfterValidator(_check_window)]
"""(low, high), given with a comma; () disables clipping."""


@dataclass(frozen=True)
class Preparation:
    """The preparation of a volume.

    Attributes:
        spacing: voxel size to resample to, in mm along each axis; () keeps the volume's spacing.
        window: range (low, high) to which values are clipped; () disables clipping.
        intensity: intensity mode for all channels, or one mode per channel.
        mask_cover: fraction of a new voxel that a class of the mask must cover; None takes the class at its centre.
        voxel_size: voxel size of files that state none, in mm along each axis; () if it is unknown.
    """

    spacing: tuple[float, ...] = ()
    window: tuple[float, ...] = ()
    intensity: Intensity | Sequence[Intensity] = "keep"
    mask_cover: float | None = None
    voxel_size: tuple[float, ...] = ()


def encode_prepared(
    image: Volume,
    mask: NDArray[np.uint8] | None,
    how: Preparation,
    path: Path,
    label: int | None = None,
    note: Callable[[str], None] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> dict[str, bytes]:
    """Prepare a volume and encode it as components. Of its metadata, only a known spacing and affine are kept.

    Args:
        image: volume from `read_volume`.
        mask: (H, W, D) class numbers, on the same voxels.
        how: preparation to apply.
        path: path of the image, for error messages.
        label: image class.
        note: told in one line if the mask loses a class when it is resampled.
        meta: other entries of the json.

    Raises:
        ShardError: the volume cannot be scaled or resampled.
    """
    prepared = resample(scale(image, how, path), how.spacing, path)
    place = {"spacing": list(prepared.spacing), "affine": prepared.affine.tolist()} if prepared.stated else {}
    components = {IMAGE: encode_volume(prepared.values), "json": encode_json(label, {**(meta or {}), **place})}
    if mask is not None:
        drawn = Volume(mask, image.affine, image.stated)
        made = resample_mask(drawn, how.spacing, path, how.mask_cover).values
        if note and set(np.unique(mask)) - set(np.unique(made)) - {0, IGNORE}:
            note(LOST)
        components[MASK] = encode_volume(made)
    return components


def resample_mask(mask: Volume, spacing: Sequence[float], path: Path, cover: float | None = None) -> Volume:
    """Resample a mask of class numbers without mixing classes.

    Args:
        mask: (H, W, D) uint8, 255 = ignore.
        spacing: voxel size in mm along each axis; () keeps the mask.
        path: path of the volume, for error messages.
        cover: None takes the class at the centre of each new voxel (NEAREST), which may lose small lesions. Otherwise a
            new voxel gets the class, except for background, that covers most of it, if that is at least this fraction.
            The covered part is estimated by linear interpolation after a Gaussian, which is up to 0.3 times too low
            for a single voxel.

    Raises:
        ShardError: see `resample`.
    """
    made = resample(mask, spacing, path, nearest=True)
    if cover is None or made is mask:
        return made
    values = np.zeros(made.values.shape, np.uint8)
    most = np.full(values.shape, np.nextafter(np.float32(cover), np.float32(0)))
    for number in np.unique(mask.values[mask.values != 0]):
        covered = Volume((mask.values == number).astype(np.float32), mask.affine, mask.stated)
        share = resample(covered, spacing, path).values
        values[share > most] = number
        most = np.maximum(most, share)
    return Volume(values, made.affine, made.stated)


def scale(image: Volume, how: Preparation, path: Path) -> Volume:
    """Clip the values, then standardise each channel with mode "volume" by its non-zero voxels.

    MRI intensities have no fixed unit, and the size of the zero background differs between volumes.

    Raises:
        ShardError: a channel to be standardised is constant, or the number of channels does not match `how`.
    """
    channels = image.values[..., None] if image.values.ndim == 3 else image.values
    count = channels.shape[3]
    kinds = [how.intensity] * count if isinstance(how.intensity, str) else list(how.intensity)
    if len(kinds) != count:
        raise ShardError(f"{path} must have {len(kinds)} channels, but has {count}")
    clipped = _clip(channels, how.window) if how.window else channels
    if "volume" in kinds:
        scaled = np.empty(clipped.shape, np.float32)
        for number, kind in enumerate(kinds):
            inside = clipped[..., number][channels[..., number] != 0]
            shift, width = _deviation(inside, path, "non-zero ", _KEEP) if kind == "volume" else (0.0, 1.0)
            scaled[..., number] = (clipped[..., number] - shift) / width
        clipped = scaled
    return Volume(clipped.reshape(image.values.shape), image.affine, image.stated)


def standardised(image: Volume, inside: NDArray[np.bool_], path: Path) -> Volume:
    """Subtract the mean of some voxels of a volume of one channel, and divide by their standard deviation.

    Args:
        image: volume (H, W, D).
        inside: (H, W, D) the voxels whose mean and standard deviation are taken; all voxels are changed.
        path: path of the volume, for error messages.

    Raises:
        ShardError: these voxels are constant.
    """
    shift, width = _deviation(image.values[inside], path)
    return Volume(((image.values - shift) / width).astype(np.float32), image.affine, image.stated)


def cropped(image: Volume, low: Sequence[int], high: Sequence[int]) -> Volume:
    """Return the part of a volume inside of a box; its voxels keep their place in mm.

    Args:
        image: volume (H, W, D) or (H, W, D, channels).
        low: first voxel of the box.
        high: voxel after its last.
    """
    move = np.eye(4)
    move[:3, 3] = low
    inside = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
    return Volume(np.ascontiguousarray(image.values[inside]), image.affine @ move, image.stated)


def resample(volume: Volume, spacing: Sequence[float], path: Path, nearest: bool = False) -> Volume:
    """Resample a volume to another voxel size about its centre.

    Interpolation is linear. Where voxels become larger, a Gaussian filter is applied first to avoid aliasing.

    Args:
        volume: volume to resample; integer values stay integers.
        spacing: voxel size in mm along each axis; () keeps the volume.
        path: path of the volume, for error messages.
        nearest: whether to use nearest-neighbour interpolation, for masks.

    Returns:
        A volume of round(shape * old spacing / new spacing) voxels, at least 1 along each axis.

    Raises:
        ShardError: scipy is missing, the file does not state its spacing, or there would be too many voxels.
    """
    if not len(spacing):
        return volume
    if not volume.stated:
        raise ShardError(
            f"{path} does not state its voxel size: give it in mm, such as voxel_size=1,1,1, or leave spacing empty"
        )
    ratio = np.asarray(spacing) / np.asarray(volume.spacing)
    ratio[np.abs(ratio - 1) < _SAME] = 1
    if (ratio == 1).all():
        return volume
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
    """Interpolate a channel at points that start at `first` and are `ratio` apart, in voxels."""
    try:
        from scipy import ndimage
    except ModuleNotFoundError:
        raise missing_library(path, "scipy") from None
    whole = values.dtype.kind != "f"
    if not nearest:
        values = values.astype(np.float32)
        if (ratio > 1).any():
            values = ndimage.gaussian_filter(values, np.maximum(0, (ratio - 1) / 2), mode="nearest")
    with warnings.catch_warnings(action="ignore"):  # older scipy always warns about diagonal matrices
        made = ndimage.affine_transform(
            values, ratio, first.tolist(), tuple(shape), order=int(not nearest), mode="nearest"
        )
    return np.rint(made) if whole else made


def _clip(values: NDArray[Any], window: tuple[float, ...]) -> NDArray[Any]:
    """Clip values to a window. Integers stay integers if both ends of the window are integers."""
    low, high = window
    if values.dtype.kind != "f":
        held = np.iinfo(values.dtype)
        low, high = max(low, float(held.min)), min(high, float(held.max))
        if not (low.is_integer() and high.is_integer() and low <= high):
            values, (low, high) = values.astype(np.float32), window
    return np.clip(values, values.dtype.type(low), values.dtype.type(high))


def _deviation(values: NDArray[Any], path: Path, which: str = "", hint: str = "") -> tuple[float, float]:
    """Return mean and standard deviation of the values."""
    if not values.size or values.min() == values.max():
        raise ShardError(f"{path}: all {which}voxels are equal: remove the volume{hint}")
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
