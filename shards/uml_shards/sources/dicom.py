"""Series of DICOM files at shard time, through the extra `volumes`: one volume a folder.

Only the tags listed here are read. Of those, nothing but the geometry leaves this module: no name, no date, no number.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError
from .raw_volume import RawVolume, missing_library, one_line, refuse_large

ENDING = ".dcm"

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
"""Share of the distance of two slices by which a slice may be out of its place."""

_PARALLEL = 1e-3
"""Largest difference of two direction cosines, or of two sizes of pixels in mm, that are the same."""

_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_series(folder: Path) -> RawVolume:
    """The volume of all DICOM files that lie in a folder, whatever they are called.

    Values are rescaled as each file says; they stay whole numbers where slope and intercept are.

    Raises:
        ShardError: pydicom is missing; a file is damaged, compressed in a way that needs other libraries, in colour or
            of several frames; or they are not the slices of one series, evenly spaced along their normal.
    """
    files = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    slices = [_read(path) for path in files if path.suffix.lower() == ENDING]
    if len(slices) < 2:
        raise ShardError(f"{folder} holds {len(slices)} DICOM files: a volume needs 2 slices or more")
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
    """The tags of the whitelist of one file, after all that can be refused by them."""
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ModuleNotFoundError:
        raise missing_library(path, "pydicom") from None
    try:
        with warnings.catch_warnings(action="ignore"):  # what is damaged is an error
            found = pydicom.dcmread(path, specific_tags=_WHITELIST)
            missing = [name for name in (*_GEOMETRY, "Rows", "Columns", "PixelData") if not found.get(name)]
            shapes = {name: len(found[name].value) for name in _GEOMETRY[:3] if name not in missing}
    except (*_DAMAGE, InvalidDicomError) as error:
        raise ShardError(f"{path} cannot be read: {one_line(error)}") from None
    if missing or list(shapes.values()) != [3, 6, 2]:
        raise ShardError(f"{path} is no slice of a volume: without, or with a wrong, {', '.join(missing or shapes)}")
    if int(found.get("NumberOfFrames") or 1) != 1:
        raise ShardError(f"{path} holds {found.NumberOfFrames} frames: store one slice a file, or the volume as NIfTI")
    if found.get("PhotometricInterpretation") != "MONOCHROME2":
        kind = found.get("PhotometricInterpretation")
        raise ShardError(f"{path} has the photometric interpretation {kind}: must be MONOCHROME2, grey with 0 as black")
    if found.get("ModalityLUTSequence"):
        raise ShardError(f"{path} has its values in a look-up table, which is not read: store the volume as NIfTI")
    if found.get("BurnedInAnnotation") == "YES":
        raise ShardError(f"{path} says that text about the patient is in its pixels: take it away")
    return found


def _refuse_different(first: Any, other: Any, folder: Path) -> None:
    """Slices of one volume share all but place and pixels."""
    if first.SeriesInstanceUID != other.SeriesInstanceUID:
        raise ShardError(f"{folder} holds files of several series: give each its own folder")
    for name in ("Rows", "Columns"):
        if first[name].value != other[name].value:
            raise ShardError(f"{folder}: slices differ in {name}, {first[name].value} and {other[name].value}")
    for name in ("ImageOrientationPatient", "PixelSpacing"):
        if not np.allclose(first[name].value, other[name].value, rtol=0, atol=_PARALLEL):
            raise ShardError(f"{folder}: slices differ in {name}: take those away that are no part of the volume")


def _step(places: NDArray[np.float64], normal: NDArray[np.float64], folder: Path) -> NDArray[np.float64]:
    """From one slice to the next, (3,) mm; the places are in order."""
    distances = np.diff(places @ normal)
    usual = float(np.median(distances))
    if distances.min() <= _UNEVEN * usual:
        raise ShardError(f"{folder}: two slices are at the same place: is it several volumes, or a film?")
    if (wrong := np.abs(distances - usual) > _UNEVEN * usual).any():
        found = f"{distances[wrong][0]:.3f} mm beside {usual:.3f} mm"
        raise ShardError(f"{folder}: the distances of slices differ, {found}: is one missing?")
    step = (places[-1] - places[0]) / (len(places) - 1)
    if np.linalg.norm(step - (step @ normal) * normal) > _UNEVEN * usual:
        raise ShardError(f"{folder}: the slices are shifted sideways (a tilted gantry): straighten the volume first")
    return step


def _values(found: Any, folder: Path) -> NDArray[Any]:
    """(rows, columns), rescaled."""
    syntax = "no transfer syntax"
    try:
        syntax = found.file_meta.TransferSyntaxUID.name
        with warnings.catch_warnings(action="ignore"):
            stored: NDArray[Any] = found.pixel_array
        slope, intercept = _number(found, "RescaleSlope", 1), _number(found, "RescaleIntercept", 0)
    except _DAMAGE as error:
        raise ShardError(f"{folder}: pixels cannot be decoded ({syntax}): {_first_sentence(error)}") from None
    if stored.ndim != 2:
        raise ShardError(f"{folder}: slices have {stored.ndim} dimensions, must have 2: {stored.shape}")
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
    """Pydicom goes on with a list of libraries."""
    return one_line(error).split(". ")[0][:200]
