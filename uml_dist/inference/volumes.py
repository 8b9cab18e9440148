"""Reads a volume and prepares it as the training's importer prepared the training data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uml_shards.errors import ShardError
from uml_shards.importers.brats2019 import prepared_brain
from uml_shards.sources.volume_files import (
    Volume,
    ending,
    read_raw_volume,
    read_volume,
    refuse_other_place,
    turned_to_ras,
)
from uml_shards.sources.volume_preparing import Intensity, Preparation, resample, scale, standardised

from .geometry import VolumeGeometry
from .trained import Trained


def prepare_volume(path: Path, more: Sequence[Path], trained: Trained) -> tuple[NDArray[Any], VolumeGeometry]:
    """Read and prepare a volume.

    Args:
        path: a file, or the folder of a DICOM series.
        more: files of further channels on the same voxels.
        trained: what the run was trained on.

    Returns:
        The volume (H, W, D, channels) as shards of the training would store it, and how it lies in the file.

    Raises:
        ShardError: the file cannot be read or prepared, or its channels are not those of the training.
    """
    options = trained.options
    raw = read_raw_volume(path)
    whole = _with_channels(turned_to_ras(raw, path, options.voxel_size), path, more, options.voxel_size)
    channels = 1 if whole.values.ndim == 3 else whole.values.shape[3]
    if channels != trained.channels:
        raise ShardError(f"{path} has {channels} channel{'s' * (channels != 1)}, but {trained.words}")
    shape = whole.values.shape[:3]
    low, high = [0, 0, 0], list(shape)
    prepared = whole
    if trained.dataset == "brats2019":
        prepared, low, high = prepared_brain(whole, options.clip, options.background, path)
    elif trained.dataset == "left_atrium" and ending(path.name).lower() not in (".h5", ".hdf5"):
        prepared = standardised(whole, np.ones(whole.values.shape, np.bool_), path)
    else:
        prepared = scale(whole, Preparation(window=options.window, intensity=_intensity(path, trained)), path)
    prepared = resample(prepared, options.spacing, path)
    values = prepared.values if prepared.values.ndim == 4 else prepared.values[..., None]
    known = whole.stated or bool(options.voxel_size)
    geometry = VolumeGeometry(
        shape=raw.values.shape[:3],
        affine=raw.affine,
        turned=shape,
        own_spacing=whole.spacing,
        low=tuple(low),
        high=tuple(high),
        spacing=prepared.spacing,
        pixel=float(abs(np.linalg.det(whole.affine[:3, :3]))) / 1000 if known else None,
    )
    return _as_stored(values, trained, path), geometry


def _with_channels(first: Volume, path: Path, more: Sequence[Path], voxel_size: Sequence[float]) -> Volume:
    """Return a volume with the channels of further files on its last axis."""
    if not more:
        return first
    others = [read_volume(other, voxel_size) for other in more]
    for place, volume in zip((path, *more), (first, *others), strict=True):
        if volume.values.ndim != 3:
            raise ShardError(f"{place}: contains {volume.values.shape[3]} channels, must contain one")
        refuse_other_place(volume, place, first, path)
    return Volume(np.stack([one.values for one in (first, *others)], axis=3), first.affine, first.stated)


def _intensity(path: Path, trained: Trained) -> Intensity:
    stated = trained.options.intensity
    if stated == "auto":
        raise ShardError(
            f"{path} can be prepared in two ways: {trained.words} with intensity=auto, which depends on the names of "
            "its channels: pass --set intensity=keep for CT, or --set intensity=volume for MRI"
        )
    return stated


def _as_stored(values: NDArray[Any], trained: Trained, path: Path) -> NDArray[Any]:
    """Return the values in the type in which the training's shards store them, which decides how they are scaled."""
    if trained.dataset != "phantom3d":
        return values
    if values.min() < 0 or values.max() > 255 or (values != np.rint(values)).any():
        raise ShardError(
            f"{path} must have integers from 0 to 255, as the volumes on which run {trained.run} was trained"
        )
    return values.astype(np.uint8)
