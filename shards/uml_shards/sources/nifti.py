"""Read NIfTI files. Needs the extra `volumes`."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError, one_line
from .raw_volume import RawVolume, missing_library, refuse_large, refuse_not_finite

_DAMAGE = (OSError, ValueError, EOFError, OverflowError, MemoryError, zlib.error)

_MILLIMETRES = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}

_CHUNK = 1 << 20


def open_nifti(path: Path, dimensions: Sequence[int] = (3,)) -> Any:
    """Open a volume in its stored orientation: header and lazily loaded data.

    Args:
        path: path of the file.
        dimensions: allowed numbers of dimensions.

    Raises:
        ShardError: nibabel is missing, or the file is not NIfTI or has another number of dimensions.
    """
    try:
        from nibabel.filebasedimages import ImageFileError
        from nibabel.imageglobals import LoggingOutputSuppressor
        from nibabel.loadsave import load
        from nibabel.nifti1 import Nifti1Image
        from nibabel.spatialimages import HeaderDataError
        from nibabel.wrapstruct import WrapStructError
    except ModuleNotFoundError:
        raise missing_library(path, "nibabel") from None
    try:
        with LoggingOutputSuppressor():  # problems are reported as errors below
            volume = load(path)
        if not isinstance(volume, Nifti1Image):
            raise ImageFileError("it is not a NIfTI file")
    except (*_DAMAGE, ImageFileError, HeaderDataError, WrapStructError) as error:
        raise ShardError(f"{path} cannot be opened: {one_line(error)}") from None
    if len(volume.shape) not in dimensions:
        allowed = " or ".join(map(str, dimensions))
        raise ShardError(f"{path} must have {allowed} dimensions, but has {len(volume.shape)}: {volume.shape}")
    refuse_large(volume.shape, path)
    return volume


def read_nifti(path: Path) -> NDArray[np.float32]:
    """Read the scaled values of a 3D volume in its stored orientation.

    Raises:
        ShardError: see `open_nifti`; or the data are truncated, or contain NaN or infinite values.
    """
    values = _values(open_nifti(path), path, np.float32)
    refuse_not_finite(values, path)
    return values


def read_nifti_volume(path: Path) -> RawVolume:
    """Read a volume. A fourth axis is taken as channels; values without a scale keep their stored dtype.

    Raises:
        ShardError: see `open_nifti`; or the data are truncated, damaged or in colour.
    """
    volume = open_nifti(path, (3, 4))
    if volume.get_data_dtype().kind not in "iufb":
        raise ShardError(f"{path} has dtype {volume.get_data_dtype()}: values must be integers or real numbers")
    scaled = (volume.dataobj.slope, volume.dataobj.inter) != (1, 0)
    values = _values(volume, path, np.float32 if scaled else None)
    unit = _MILLIMETRES[volume.header.get_xyzt_units()[0]]
    return RawVolume(values, np.diag([unit, unit, unit, 1]) @ np.asarray(volume.affine, np.float64))


def _values(volume: Any, path: Path, dtype: Any) -> NDArray[Any]:
    try:
        if path.suffix.lower() == ".gz":
            _check_gzip(path)
        return np.asarray(volume.dataobj, dtype=dtype)
    except _DAMAGE as error:
        raise ShardError(f"{path} cannot be read: {one_line(error)}") from None


def _check_gzip(path: Path) -> None:
    """Read a gzip file to its end to verify the checksum, which nibabel does not read."""
    with gzip.open(path) as file:
        while file.read(_CHUNK):
            pass
