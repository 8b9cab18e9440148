"""Read DICOM series, one volume per folder. Needs the extra `volumes`.

Only the tags listed here are read, and apart from pixel values only the geometry leaves this module: no names, dates or
identifiers.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError, one_line
from .dicom_files import dicom_kind
from .raw_volume import RawVolume, missing_library, refuse_large

_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SeriesInstanceUID")
_PIXELS = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
_VALUES = ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "BurnedInAnnotation")
_WHITELIST = [*_GEOMETRY, *_PIXELS, *_VALUES]

_DAMAGE = (OSError, ValueError, TypeError, KeyError, AttributeError, EOFError, RuntimeError, NotImplementedError)

_UNEVEN = 0.01
"""Tolerance of slice positions, as a fraction of the slice distance."""

_PARALLEL = 1e-3
"""Tolerance of direction cosines, and of pixel spacings in mm, between slices."""

_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_series(folder: Path) -> RawVolume:
    """Read the volume formed by all DICOM files in a folder. File names have no meaning.

    Values are rescaled by each file's slope and intercept; they stay integers if slope and intercept are integers.

    Raises:
        ShardError: pydicom is missing; a file is damaged, uses an unsupported compression, is in colour or has several
            frames; or the files are not the slices of one series, evenly spaced along their normal.
    """
    files = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    slices = [_read(path) for path in files if path.is_file() and dicom_kind(path) == "slice"]
    if len(slices) < 2:
        raise ShardError(f"{folder} contains {len(slices)} DICOM files: a volume needs 2 slices or more")
    first = slices[0]
    for other in slices[1:]:
        _refuse_different(first, other, folder)
    across, down = np.asarray(first.ImageOrientationPatient, np.float64).reshape(2, 3)
    normal = np.cross(across, down)
    places = np.asarray([found.ImagePositionPatient for found in slices], np.float64)
    order = np.argsort(places @ normal, kind="stable")
    step = _step(places[order], normal, folder)
    refuse_large((first.Columns, first.Rows, len(slices)), folder)
    rows, columns = map(float, first.PixelSpacing)
    affine = np.eye(4)
    affine[:3] = np.stack([across * columns, down * rows, step, places[order[0]]], axis=1)
    values = np.stack([_values(slices[number], folder).T for number in order], axis=2)
    return RawVolume(values, _TO_RAS @ affine)


def _read(path: Path) -> Any:
    """Read the whitelisted tags of a file, and refuse unsupported files."""
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ModuleNotFoundError:
        raise missing_library(path, "pydicom") from None
    try:
        with warnings.catch_warnings(action="ignore"):  # damage is reported as an error
            found = pydicom.dcmread(path, specific_tags=_WHITELIST)
            missing = [name for name in (*_GEOMETRY, "Rows", "Columns", "PixelData") if not found.get(name)]
            shapes = {name: len(found[name].value) for name in _GEOMETRY[:3] if name not in missing}
    except (*_DAMAGE, InvalidDicomError) as error:
        raise ShardError(f"{path} cannot be read: {one_line(error)}") from None
    if missing or list(shapes.values()) != [3, 6, 2]:
        raise ShardError(f"{path} is not a slice of a volume: missing or invalid {', '.join(missing or shapes)}")
    if int(found.get("NumberOfFrames") or 1) != 1:
        raise ShardError(
            f"{path} contains {found.NumberOfFrames} frames: store one slice per file, or the volume as NIfTI"
        )
    if found.get("PhotometricInterpretation") != "MONOCHROME2":
        kind = found.get("PhotometricInterpretation")
        raise ShardError(f"{path} has the photometric interpretation {kind}: must be MONOCHROME2, grey with 0 as black")
    if found.get("ModalityLUTSequence"):
        raise ShardError(f"{path} uses a modality look-up table, which is not supported: store the volume as NIfTI")
    if found.get("BurnedInAnnotation") == "YES":
        raise ShardError(f"{path} is marked as containing patient text in its pixels: remove the text or the file")
    return found


def _refuse_different(first: Any, other: Any, folder: Path) -> None:
    """Check that two slices have equal series, size, orientation and pixel spacing."""
    if first.SeriesInstanceUID != other.SeriesInstanceUID:
        raise ShardError(f"{folder} contains files of several series: give each series its own folder")
    for name in ("Rows", "Columns"):
        if first[name].value != other[name].value:
            raise ShardError(f"{folder}: slices differ in {name}, {first[name].value} and {other[name].value}")
    for name in ("ImageOrientationPatient", "PixelSpacing"):
        if not np.allclose(first[name].value, other[name].value, rtol=0, atol=_PARALLEL):
            raise ShardError(f"{folder}: slices differ in {name}: remove the slices that do not belong to the volume")


def _step(places: NDArray[np.float64], normal: NDArray[np.float64], folder: Path) -> NDArray[np.float64]:
    """Return the vector (3,) in mm from one slice to the next. The places must be sorted."""
    distances = np.diff(places @ normal)
    usual = float(np.median(distances))
    if distances.min() <= _UNEVEN * usual:
        raise ShardError(f"{folder}: two slices have the same position: give each volume or time point its own folder")
    if (wrong := np.abs(distances - usual) > _UNEVEN * usual).any():
        found = f"{distances[wrong][0]:.3f} mm instead of {usual:.3f} mm"
        raise ShardError(f"{folder}: the slices are not evenly spaced, {found}: check whether a slice is missing")
    step = (places[-1] - places[0]) / (len(places) - 1)
    if np.linalg.norm(step - (step @ normal) * normal) > _UNEVEN * usual:
        raise ShardError(f"{folder}: the slices are shifted sideways (tilted gantry): resample the volume first")
    return step


def _values(found: Any, folder: Path) -> NDArray[Any]:
    """Return the rescaled values (rows, columns) of a slice."""
    syntax = "no transfer syntax"
    try:
        syntax = found.file_meta.TransferSyntaxUID.name
        with warnings.catch_warnings(action="ignore"):
            stored: NDArray[Any] = found.pixel_array
        slope, intercept = _number(found, "RescaleSlope", 1), _number(found, "RescaleIntercept", 0)
    except _DAMAGE as error:
        raise ShardError(f"{folder}: pixels cannot be decoded ({syntax}): {_first_sentence(error)}") from None
    if stored.ndim != 2:
        raise ShardError(f"{folder}: slices must have 2 dimensions, but have {stored.ndim}: {stored.shape}")
    if (slope, intercept) == (1, 0):
        return stored
    if slope.is_integer() and intercept.is_integer():
        whole = stored.astype(np.int64) * int(slope) + int(intercept)
        return whole.astype(np.result_type(*(np.min_scalar_type(value) for value in (whole.min(), whole.max()))))
    return (stored * slope + intercept).astype(np.float32)


def _number(found: Any, name: str, default: float) -> float:
    value = found.get(name)
    return default if value is None else float(value)


def _first_sentence(error: BaseException) -> str:
    """Return the first sentence of an error; pydicom appends a list of libraries."""
    return one_line(error).split(". ")[0][:200]
