"""Read HDF5 files: the dataset `image`, and `label` for its mask. Needs the extra `volumes`."""

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ShardError, one_line
from .raw_volume import RawVolume, missing_library, refuse_large

IMAGE = "image"
LABEL = "label"

_DAMAGE = (OSError, ValueError, TypeError, KeyError, RuntimeError, MemoryError)


def read_hdf5(path: Path, name: str) -> RawVolume:
    """Read a dataset of a file. Its attribute `spacing`, if present, is the voxel size in mm along each axis.

    Raises:
        ShardError: h5py is missing, or the file itself contains no such dataset with 3 or 4 axes.
    """
    h5py = _library(path)
    try:
        with h5py.File(path, "r") as file:
            dataset = _dataset(file, name, h5py)
            if dataset is None:
                raise ShardError(f"{path} contains no dataset {name!r}: it has {', '.join(file) or 'none'}")
            if dataset.ndim not in (3, 4):
                raise ShardError(f"{path}: dataset {name} must have 3 or 4 dimensions, but has {dataset.ndim}")
            refuse_large(dataset.shape, path)
            spacing = np.asarray(dataset.attrs.get("spacing", (1, 1, 1)), np.float64)
            if spacing.shape != (3,):
                raise ShardError(f"{path}: attribute spacing of {name} must be 3 numbers, mm along each axis")
            return RawVolume(np.asarray(dataset), np.diag([*spacing, 1.0]), "spacing" in dataset.attrs)
    except ShardError:
        raise
    except _DAMAGE as error:
        raise ShardError(f"{path} cannot be read: {one_line(error)}") from None


def has_label(path: Path) -> bool:
    """Whether a file also contains a mask. False for a damaged file, whose error is reported when it is read.

    Raises:
        ShardError: h5py is missing.
    """
    h5py = _library(path)
    try:
        with h5py.File(path, "r") as file:
            return LABEL in file
    except _DAMAGE:
        return False


def _library(path: Path) -> Any:
    try:
        import h5py
    except ModuleNotFoundError:
        raise missing_library(path, "h5py") from None
    return h5py


def _dataset(file: Any, name: str, h5py: Any) -> Any:
    """Return a dataset stored in the file itself, or None. Links and external datasets could refer to any file."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return None
    dataset = file[name]
    return dataset if isinstance(dataset, h5py.Dataset) and not (dataset.external or dataset.is_virtual) else None
