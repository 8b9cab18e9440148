"""Read NRRD files. Needs the extra `volumes`."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError, reading
from .raw_volume import RawVolume, checked_spacing, missing_library, refuse_large

_TO_RAS = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}


def read_nrrd(path: Path) -> RawVolume:
    """Read a 3D volume with its data in the same file.

    Raises:
        ShardError: pynrrd is missing; or the file is damaged, is not 3D, or has an unsupported space or unit.
    """
    try:
        import nrrd
    except ModuleNotFoundError:
        raise missing_library(path, "pynrrd") from None
    with reading(path), path.open("rb") as file, warnings.catch_warnings(action="ignore"):  # damage is an error
        header = nrrd.read_header(file)
        _refuse(header, path)
        affine, stated = _affine(header, path)
        return RawVolume(np.asarray(nrrd.read_data(header, file, str(path))), affine, stated)


def _refuse(header: Any, path: Path) -> None:
    """Refuse volumes that are not 3D, and detached data, since a header can name any file on the disk."""
    if {"data file", "datafile"} & header.keys():
        raise ShardError(f"{path} has its data in another file: store header and data in one .nrrd file")
    sizes = header["sizes"]
    if len(sizes) != 3:
        raise ShardError(f"{path} must have 3 dimensions, but has {len(sizes)}: {tuple(map(int, sizes))}")
    refuse_large(sizes, path)


def _affine(header: Any, path: Path) -> tuple[NDArray[np.float64], bool]:
    """Return the affine from voxels to mm in RAS, and whether the file states the voxel size."""
    affine = np.eye(4)
    if "space directions" not in header:
        spacings = np.asarray(header.get("spacings", [np.nan]), np.float64)
        if np.isnan(spacings).all():
            return affine, False
        affine[:3, :3] = np.diag(checked_spacing(spacings, f"{path}: spacings"))
        return affine, True
    space = str(header.get("space", "")).lower()
    if space not in _TO_RAS:
        raise ShardError(f"{path} has the space {space!r}: must be one of {', '.join(sorted(_TO_RAS))}")
    if any(unit != "mm" for unit in header.get("space units", ())):
        raise ShardError(f"{path} has the space units {header['space units']}: must be mm")
    affine[:3, :3] = np.asarray(header["space directions"], np.float64).T
    affine[:3, 3] = header.get("space origin", np.zeros(3))
    return np.diag([*_TO_RAS[space], 1.0]) @ affine, True
