"""Read DICOM series, one volume per folder. Needs the extra `volumes`.

Only the tags listed here are read, and apart from pixel values only the geometry leaves this module: no names, dates or
identifiers.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError, one_line, reading
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

_DEFAULTS = {"RescaleSlope": 1.0, "RescaleIntercept": 0.0, "NumberOfFrames": 1.0}

_UNEVEN = 0.01
"""Tolerance of slice positions, as a fraction of the slice distance."""

_PARALLEL = 1e-3
"""Tolerance of direction cosines, and of pixel spacings in mm, between slices."""

_EXACT = 1 << 53
"""Integers up to this size are exact in float64."""

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
    normal = np.cross(first.across, first.down)
    places = np.stack([found.place for found in slices])
    order = np.argsort(places @ normal, kind="stable")
    step = _step(places[order], normal, folder)
    refuse_large((*first.pixels.shape, len(slices)), folder)
    rows, columns = first.spacing
    affine = np.eye(4)
    affine[:3] = np.stack([first.across * columns, first.down * rows, step, places[order[0]]], axis=1)
    return RawVolume(np.stack([slices[number].values().T for number in order], axis=2), _TO_RAS @ affine)


@dataclass(frozen=True)
class _Slice:
    """What is read from a file.

    Attributes:
        series: identifier of the series.
        place: (3,) position of the first pixel, in mm.
        across: (3,) direction of a row.
        down: (3,) direction of a column.
        spacing: (2,) distance of rows and of columns, in mm.
        pixels: (rows, columns) the stored values.
        slope: factor of the stored values.
        intercept: added to them after that.
    """

    series: str
    place: NDArray[np.float64]
    across: NDArray[np.float64]
    down: NDArray[np.float64]
    spacing: NDArray[np.float64]
    pixels: NDArray[Any]
    slope: float
    intercept: float

    def values(self) -> NDArray[Any]:
        """Return the rescaled values (rows, columns)."""
        slope, intercept = self.slope, self.intercept
        if (slope, intercept) == (1, 0):
            return self.pixels
        largest = abs(slope) * float(np.abs(self.pixels.astype(np.float64)).max()) + abs(intercept)
        if slope.is_integer() and intercept.is_integer() and largest < _EXACT:
            whole = self.pixels.astype(np.int64) * int(slope) + int(intercept)
            return whole.astype(np.result_type(*(np.min_scalar_type(value) for value in (whole.min(), whole.max()))))
        with np.errstate(over="ignore"):  # infinite values are refused
            return (self.pixels * slope + intercept).astype(np.float32)


def _read(path: Path) -> _Slice:
    """Read the whitelisted tags and the pixels of a file, and refuse unsupported files.

    pydicom converts a tag when it is used, which fails for odd values; so only numbers, text and arrays leave this
    function.
    """
    try:
        import pydicom
    except ModuleNotFoundError:
        raise missing_library(path, "pydicom") from None
    with reading(path), warnings.catch_warnings(action="ignore"):  # damage is reported as an error
        found = pydicom.dcmread(path, specific_tags=_WHITELIST)
        missing = [name for name in (*_GEOMETRY, "Rows", "Columns", "PixelData") if not found.get(name)]
        if missing:
            raise ShardError(f"{path} is not a slice of a volume: it lacks {', '.join(missing)}")
        _refuse_unsupported(found, path)
        orientation = _numbers(found, "ImageOrientationPatient", 6, path).reshape(2, 3)
        if not np.allclose(orientation @ orientation.T, np.eye(2), rtol=0, atol=_UNEVEN):
            raise ShardError(f"{path}: ImageOrientationPatient must be two perpendicular directions of length 1")
        spacing = _numbers(found, "PixelSpacing", 2, path)
        slope, intercept = (float(_numbers(found, name, 1, path)[0]) for name in ("RescaleSlope", "RescaleIntercept"))
        if not (spacing > 0).all() or slope == 0:
            raise ShardError(f"{path}: PixelSpacing must be positive, and RescaleSlope not 0")
        refuse_large([int(_numbers(found, name, 1, path)[0]) for name in ("Rows", "Columns")], path)
        return _Slice(
            series=str(found.SeriesInstanceUID),
            place=_numbers(found, "ImagePositionPatient", 3, path),
            across=orientation[0],
            down=orientation[1],
            spacing=spacing,
            pixels=_pixels(found, path),
            slope=slope,
            intercept=intercept,
        )


def _refuse_unsupported(found: Any, path: Path) -> None:
    """Refuse files of several frames, in colour, with a look-up table or with text in their pixels."""
    if (frames := _numbers(found, "NumberOfFrames", 1, path)[0]) != 1:
        raise ShardError(f"{path} contains {frames:g} frames: store one slice per file, or the volume as NIfTI")
    if (kind := str(found.get("PhotometricInterpretation"))) != "MONOCHROME2":
        raise ShardError(f"{path} has the photometric interpretation {kind}: must be MONOCHROME2, grey with 0 as black")
    if found.get("ModalityLUTSequence"):
        raise ShardError(f"{path} uses a modality look-up table, which is not supported: store the volume as NIfTI")
    if "YES" in str(found.get("BurnedInAnnotation")).upper():
        raise ShardError(f"{path} is marked as containing patient text in its pixels: remove the text or the file")


def _numbers(found: Any, name: str, count: int, path: Path) -> NDArray[np.float64]:
    """Return the finite numbers (count,) of a tag."""
    try:
        value = found.get(name)
        numbers = np.atleast_1d(np.asarray(_DEFAULTS[name] if value is None else value, np.float64))
    except Exception:  # of pydicom, which converts the tag here, or of numpy
        numbers = np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ShardError(f"{path}: {name} must be {count} number{'s' if count > 1 else ''}")
    return numbers


def _pixels(found: Any, path: Path) -> NDArray[Any]:
    """Return the stored values (rows, columns)."""
    try:
        pixels: NDArray[Any] = np.array(found.pixel_array)
    except Exception as error:
        syntax = getattr(found.file_meta.get("TransferSyntaxUID"), "name", "no transfer syntax")
        # pydicom appends a list of libraries to the first sentence
        raise ValueError(f"pixels cannot be decoded ({syntax}): {one_line(error).split('. ')[0]}") from error
    if pixels.ndim != 2:
        raise ShardError(f"{path}: a slice must have 2 dimensions, but has {pixels.ndim}: {pixels.shape}")
    return pixels


def _refuse_different(first: _Slice, other: _Slice, folder: Path) -> None:
    """Check that two slices have equal series, size, orientation and pixel spacing."""
    if first.series != other.series:
        raise ShardError(f"{folder} contains files of several series: give each series its own folder")
    for axis, name in enumerate(("Rows", "Columns")):
        if first.pixels.shape[axis] != other.pixels.shape[axis]:
            numbers = f"{first.pixels.shape[axis]} and {other.pixels.shape[axis]}"
            raise ShardError(f"{folder}: slices differ in {name}, {numbers}")
    places = {
        "ImageOrientationPatient": [(one.across, one.down) for one in (first, other)],
        "PixelSpacing": [one.spacing for one in (first, other)],
    }
    for name, (one, two) in places.items():
        if not np.allclose(one, two, rtol=0, atol=_PARALLEL):
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
