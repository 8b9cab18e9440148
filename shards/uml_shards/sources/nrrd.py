"""NRRD files at shard time, through the extra `volumes`."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError
from .raw_volume import RawVolume, missing_library, one_line, refuse_large

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
    """A volume of three dimensions with its data in the same file.

    Raises:
        ShardError: pynrrd is missing; the file is damaged, has other dimensions, or does not say where the patient is.
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
    """What is not read; other files above all, which a header can name anywhere on the disk."""
    if {"data file", "datafile"} & header.keys():
        raise ShardError(f"{path} has its data in another file: store it as one .nrrd")
    sizes = header["sizes"]
    if len(sizes) != 3:
        raise ShardError(f"{path} has {len(sizes)} dimensions, must have 3: {tuple(map(int, sizes))}")
    refuse_large(sizes, path)


def _affine(header: Any, path: Path) -> tuple[NDArray[np.float64], bool]:
    """Voxel -> mm in RAS, and whether the file tells the size of a voxel."""
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
