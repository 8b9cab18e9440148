"""Read NRRD files. Needs the extra `volumes`."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError, one_line
from .raw_volume import RawVolume, missing_library, refuse_large

_TO_RAS = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}

_DAMAGE = (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, StopIteration, MemoryError, zlib.error)


def read_nrrd(path: Path) -> RawVolume:
    """Read a 3D volume with its data in the same file.

    Raises:
        ShardError: pynrrd is missing; or the file is damaged, is not 3D, or has an unsupported space or unit.
    """
    try:
        import nrrd
        from nrrd.errors import NRRDError
    except ModuleNotFoundError:
        raise missing_library(path, "pynrrd") from None
    try:
        with path.open("rb") as file:
            header = nrrd.read_header(file)
            _refuse(header, path)
            values = nrrd.read_data(header, file, str(path))
            affine, stated = _affine(header, path)
    except ShardError:
        raise
    except (*_DAMAGE, NRRDError) as error:
        raise ShardError(f"{path} cannot be read: {one_line(error)}") from None
    return RawVolume(values, affine, stated)


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
    space = str(header.get("space", "")).lower()
    if not space and "space directions" not in header:
        spacings = header.get("spacings")
        if spacings is not None:
            affine[:3, :3] = np.diag(spacings)
        return affine, spacings is not None
    if space not in _TO_RAS:
        raise ShardError(f"{path} has the space {space!r}: must be one of {', '.join(sorted(_TO_RAS))}")
    if any(unit != "mm" for unit in header.get("space units", ())):
        raise ShardError(f"{path} has the space units {header['space units']}: must be mm")
    affine[:3, :3] = np.asarray(header["space directions"], np.float64).T
    affine[:3, 3] = header.get("space origin", np.zeros(3))
    return np.diag([*_TO_RAS[space], 1.0]) @ affine, True
