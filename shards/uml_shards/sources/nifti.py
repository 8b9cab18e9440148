"""Read NIfTI files. Needs the extra `volumes`."""

import gzip
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError, reading
from .raw_volume import RawVolume, missing_library, refuse_large, refuse_not_finite

_LENGTH = 0b111
"""The bits of `xyzt_units` that state the unit of length."""

_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Unit of length -> mm: not stated, m, mm, um."""

_TRANSFORMS = range(1, 6)
"""Codes of transforms to a space; 0 means that there is none."""

_CHUNK = 1 << 20


def nifti_shape(path: Path) -> tuple[int, ...]:
    """Return the shape of a 3D volume, in its stored orientation.

    Raises:
        ShardError: see `read_nifti`.
    """
    with _opened(path, (3,)) as volume:
        return tuple(map(int, volume.shape))


def read_nifti(path: Path) -> NDArray[np.float32]:
    """Read the scaled values of a 3D volume in its stored orientation.

    Raises:
        ShardError: nibabel is missing; the file is not NIfTI, is damaged or has another number of dimensions; or its
            data contain NaN or infinite values.
    """
    with _opened(path, (3,)) as volume:
        values = _values(volume, path, np.float32)
    refuse_not_finite(values, path)
    return values


def read_nifti_volume(path: Path) -> RawVolume:
    """Read a volume. A fourth axis is taken as channels; values without a scale keep their stored dtype.

    A file without a unit is in mm, as in all programs that read NIfTI.

    Raises:
        ShardError: see `read_nifti`; or the data are in colour.
    """
    with _opened(path, (3, 4)) as volume:
        if volume.get_data_dtype().kind not in "iufb":
            raise ShardError(f"{path} has dtype {volume.get_data_dtype()}: values must be integers or real numbers")
        code = int(volume.header["xyzt_units"]) & _LENGTH
        if code not in _MILLIMETRES:
            raise ShardError(f"{path} has the unit of length {code}: must be 1 (m), 2 (mm), 3 (um), or 0 for mm")
        unit = _MILLIMETRES[code]
        affine = np.diag([unit, unit, unit, 1]) @ np.asarray(volume.affine, np.float64)
        scaled = (volume.dataobj.slope, volume.dataobj.inter) != (1, 0)
        stated = _states_size(_stored_header(volume, path), path)
        return RawVolume(_values(volume, path, np.float32 if scaled else None), affine, stated)


@contextmanager
def _opened(path: Path, dimensions: Sequence[int]) -> Iterator[Any]:
    """Open a volume. Errors of nibabel become a `ShardError` as long as it is open."""
    try:
        from nibabel.filebasedimages import ImageFileError
        from nibabel.imageglobals import logger
        from nibabel.loadsave import load
        from nibabel.nifti1 import Nifti1Image
    except ModuleNotFoundError:
        raise missing_library(path, "nibabel") from None
    with reading(path):
        logger.addFilter(_no_record)  # problems are reported as errors
        try:
            volume = load(path)
        except ImageFileError:  # its message is the path
            raise ValueError("it is not a NIfTI file, or its header is damaged") from None
        finally:
            logger.removeFilter(_no_record)
        if not isinstance(volume, Nifti1Image):
            raise ValueError("it is not a NIfTI file")
        if len(volume.shape) not in dimensions:
            allowed = " or ".join(map(str, dimensions))
            raise ShardError(f"{path} must have {allowed} dimensions, but has {len(volume.shape)}: {volume.shape}")
        refuse_large(volume.shape, path)
        yield volume


def _no_record(_: Any) -> bool:
    return False


def _stored_header(volume: Any, path: Path) -> Any:
    """Return the header as stored: nibabel replaces codes that are not valid, and voxel sizes of 0 by 1."""
    from nibabel.openers import ImageOpener

    with ImageOpener(str(path)) as file:
        return type(volume.header).from_fileobj(file, check=False)


def _states_size(header: Any, path: Path) -> bool:
    """Whether a header states the voxel size, in a transform or by itself. An unset header has sizes of 1, and no unit.

    Raises:
        ShardError: the code of a transform is not valid.
    """
    for name in ("sform_code", "qform_code"):
        if header[name] not in (0, *_TRANSFORMS):
            raise ShardError(f"{path} has the {name} {header[name]}: must be 0 to {_TRANSFORMS[-1]}")
    if header["sform_code"]:
        return True
    sizes = header["pixdim"][1:4]
    unset = (sizes == 1).all() and not header["qform_code"] and not header["xyzt_units"] & _LENGTH
    return bool((sizes != 0).all() and not unset)


def _values(volume: Any, path: Path, dtype: Any) -> NDArray[Any]:
    """Return the values of a volume, or those before its scale if the dtype is None and there is none."""
    if path.suffix.lower() == ".gz":
        _check_gzip(path)
    return np.asarray(volume.dataobj, dtype=dtype)


def _check_gzip(path: Path) -> None:
    """Read a gzip file to its end to verify the checksum, which nibabel does not read."""
    with gzip.open(path) as file:
        while file.read(_CHUNK):
            pass
