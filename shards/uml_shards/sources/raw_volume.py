"""What the readers of volume files have in common."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError

MAX_VOXELS = 1 << 30
"""Largest volume that is read or made, all channels together: 1024 x 1024 x 1024."""


@dataclass(frozen=True)
class RawVolume:
    """A volume as its file has it.

    Attributes:
        values: (x, y, z) or (x, y, z, channels), scaled as the file says; the axes may run either way.
        affine: (4, 4) float64, voxel -> mm in RAS: right, anterior and superior of the patient.
        stated: whether the file tells the size of a voxel; where not, it is taken for 1 mm.
    """

    values: NDArray[Any]
    affine: NDArray[np.float64]
    stated: bool = True


def missing_library(path: Path, library: str) -> ShardError:
    """The error for a file whose reader is not installed."""
    return ShardError(f"{path} needs {library}: pip install 'uml-shards[volumes]'")


def one_line(error: BaseException) -> str:
    """What a library says of a file that it cannot read."""
    return " ".join(str(error).split()) or type(error).__name__


def refuse_large(shape: Sequence[int], path: Path) -> None:
    """Called before the voxels are read, since a header can claim any number.

    Raises:
        ShardError: there are more than `MAX_VOXELS`.
    """
    if math.prod(map(int, shape)) > MAX_VOXELS:
        raise ShardError(f"{path}: {'x'.join(map(str, shape))} is more than {MAX_VOXELS} voxels")


def refuse_not_finite(values: NDArray[Any], path: Path) -> None:
    """Refuse NaN and infinity.

    Raises:
        ShardError: there are some.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ShardError(f"{path} holds {int((~np.isfinite(values)).sum())} values that are NaN or infinite: fix it")
