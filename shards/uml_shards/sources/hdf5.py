"""Read HDF5 files: the dataset `image`, and `label` for its mask. Needs the extra `volumes`."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError, reading
from .raw_volume import RawVolume, checked_spacing, missing_library, refuse_large

IMAGE = "image"
LABEL = "label"
SPACING = "spacing"


def read_hdf5(path: Path, name: str) -> RawVolume:
    """Read a dataset of a file.

    The attribute `spacing` of the image, its label or the file is the voxel size in mm along each axis, and that of all
    datasets: they have the same voxels.

    Raises:
        ShardError: h5py is missing; the file itself contains no such dataset with 3 or 4 axes; or attributes `spacing`
            are not valid or differ.
    """
    h5py = _library(path)
    with reading(path), h5py.File(path, "r") as file:
        dataset = _dataset(file, name, h5py)
        if dataset is None:
            raise ShardError(f"{path} contains no dataset {name!r}: it has {', '.join(file) or 'none'}")
        if dataset.ndim not in (3, 4):
            raise ShardError(f"{path}: dataset {name} must have 3 or 4 dimensions, but has {dataset.ndim}")
        refuse_large(dataset.shape, path)
        spacing = _spacing(file, path, h5py)
        affine = np.eye(4) if spacing is None else np.diag([*spacing, 1.0])
        return RawVolume(np.asarray(dataset), affine, spacing is not None)


def has_label(path: Path) -> bool:
    """Whether a file also contains a mask. False for a damaged file, whose error is reported when it is read.

    Raises:
        ShardError: h5py is missing.
    """
    h5py = _library(path)
    try:
        with reading(path), h5py.File(path, "r") as file:
            return LABEL in file
    except ShardError:
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


def _spacing(file: Any, path: Path, h5py: Any) -> NDArray[np.float64] | None:
    """Return the voxel size (3,) that the file states in one or more places; None if it states none."""
    places = {f"dataset {name}": _dataset(file, name, h5py) for name in (IMAGE, LABEL)} | {"file": file}
    stated = {
        place: checked_spacing(owner.attrs[SPACING], f"{path}: attribute {SPACING} of the {place}")
        for place, owner in places.items()
        if owner is not None and SPACING in owner.attrs
    }
    if not stated:
        return None
    (place, spacing), *others = stated.items()
    for other, found in others:
        if not np.allclose(found, spacing, rtol=1e-3, atol=0):
            values = f"{_text(spacing)} in the {place} and {_text(found)} in the {other}"
            raise ShardError(f"{path}: attribute {SPACING} is {values}: correct one of them")
    return spacing


def _text(spacing: NDArray[np.float64]) -> str:
    return ",".join(f"{side:g}" for side in spacing)
