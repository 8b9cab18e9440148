"""NIfTI files at shard time, through the extra `volumes`."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError
from .raw_volume import RawVolume, missing_library, one_line, refuse_large, refuse_not_finite

_DAMAGE = (OSError, ValueError, EOFError, OverflowError, MemoryError, zlib.error)

_MILLIMETRES = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}

_CHUNK = 1 << 20


def open_nifti(path: Path, dimensions: Sequence[int] = (3,)) -> Any:
    """A volume's header and lazy data, in the orientation that it is stored in.

    Args:
        path: of the file.
        dimensions: how many it may have.

    Raises:
        ShardError: nibabel is missing, or the file is no NIfTI of so many dimensions.
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
        with LoggingOutputSuppressor():  # what is wrong is an error below
            volume = load(path)
        if not isinstance(volume, Nifti1Image):
            raise ImageFileError("it is no NIfTI")
    except (*_DAMAGE, ImageFileError, HeaderDataError, WrapStructError) as error:
        raise ShardError(f"{path} cannot be opened: {one_line(error)}") from None
    if len(volume.shape) not in dimensions:
        allowed = " or ".join(map(str, dimensions))
        raise ShardError(f"{path} has {len(volume.shape)} dimensions, must have {allowed}: {volume.shape}")
    refuse_large(volume.shape, path)
    return volume


def read_nifti(path: Path) -> NDArray[np.float32]:
    """The scaled values of a volume of three dimensions, in the orientation that it is stored in.

    Raises:
        ShardError: see `open_nifti`; or the data are cut, or hold NaN or infinite values.
    """
    values = _values(open_nifti(path), path, np.float32)
    refuse_not_finite(values, path)
    return values


def read_nifti_volume(path: Path) -> RawVolume:
    """A volume, the fourth axis of the file being channels; numbers without a scale as they are stored.

    Raises:
        ShardError: see `open_nifti`; or the data are cut or damaged, or in colour.
    """
    volume = open_nifti(path, (3, 4))
    if volume.get_data_dtype().kind not in "iufb":
        raise ShardError(f"{path} holds {volume.get_data_dtype()}: values must be whole or real numbers")
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
    """The checksum is behind the last byte, which nibabel does not read."""
    with gzip.open(path) as file:
        while file.read(_CHUNK):
            pass
