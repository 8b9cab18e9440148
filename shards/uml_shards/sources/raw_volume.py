"""Common parts of the readers of volume files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError

MAX_VOXELS = 1 << 30
"""Largest volume that is read or written, in voxels over all channels: 1024 x 1024 x 1024."""


@dataclass(frozen=True)
class RawVolume:
    """A volume in its stored orientation.

    Attributes:
        values: (x, y, z) or (x, y, z, channels), scaled as stated in the file; the axes may have any direction.
        affine: (4, 4) float64, voxel -> mm in RAS: right, anterior and superior of the patient.
        stated: whether the file states the voxel size; if not, the voxels of the affine have 1 mm.
    """

    values: NDArray[Any]
    affine: NDArray[np.float64]
    stated: bool = True


def missing_library(path: Path, library: str) -> ShardError:
    """Return the error for a file whose reader is not installed."""
    return ShardError(f"{path} needs {library}: pip install 'uml-shards[volumes]'")


def checked_spacing(numbers: Any, what: str) -> NDArray[np.float64]:
    """Return a voxel size in mm along each axis, (3,).

    Args:
        numbers: the numbers in the file.
        what: what they are and where, for the error.

    Raises:
        ShardError: they are not 3 positive numbers.
    """
    try:
        spacing = np.asarray(numbers, np.float64)
    except (TypeError, ValueError):
        spacing = np.empty(0)
    if spacing.shape != (3,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise ShardError(f"{what} must be 3 positive numbers, mm along each axis")
    return spacing


def refuse_large(shape: Sequence[int], path: Path) -> None:
    """Check the number of voxels. Call it before reading them, since a header can claim any size.

    Raises:
        ShardError: there are more than `MAX_VOXELS`.
    """
    if math.prod(map(int, shape)) > MAX_VOXELS:
        raise ShardError(f"{path}: {'x'.join(map(str, shape))} exceeds the limit of {MAX_VOXELS} voxels")


def refuse_not_finite(values: NDArray[Any], path: Path) -> None:
    """Check that no value is NaN or infinite.

    Raises:
        ShardError: some values are.
    """
    if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        first = ", ".join(map(str, np.unravel_index(int(np.argmin(finite)), values.shape)))
        count = int((~finite).sum())
        raise ShardError(f"{path} contains {count} NaN or infinite values, the first at voxel {first}: fix the file")
