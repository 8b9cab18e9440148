"""Volume files of any format, brought to one orientation and to numbers that shards hold."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError
from .dicom import read_series
from .hdf5 import IMAGE, LABEL, read_hdf5
from .nifti import read_nifti_volume
from .nrrd import read_nrrd
from .raw_volume import RawVolume, missing_library, refuse_not_finite

VOLUMES = (".nii.gz", ".nii", ".nrrd", ".h5", ".hdf5")
"""Endings of the files that are read, in either case; a folder of .dcm files is one volume too."""

_SAME_PLACE = 0.1
"""Of a voxel: how far the corners of two volumes of one patient may lie apart."""


@dataclass(frozen=True)
class Volume:
    """A volume whose axes run to the right, to the front and up, as near as it goes without resampling.

    Attributes:
        values: (H, W, D) or (H, W, D, channels), along x, y and z; int16 or float32. Unsigned integers, which files
            of one data set mix with signed ones, would be read as fractions of their largest value.
        affine: (4, 4) float64, voxel -> mm in RAS.
        stated: whether the file tells the size of a voxel; where not, it is taken for 1 mm.
    """

    values: NDArray[Any]
    affine: NDArray[np.float64]
    stated: bool = True

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Mm along each axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z


def ending(name: str) -> str:
    """The ending of a volume's file as it is in the name; "" where it is none."""
    found = next((known for known in VOLUMES if name.lower().endswith(known)), "")
    return name[len(name) - len(found) :]


def read_volume(path: Path, dataset: str = IMAGE) -> Volume:
    """Read a volume.

    Whole numbers without a scale become int16 where it holds them, all else float32.

    Args:
        path: a file, or a folder of DICOM files.
        dataset: which one of a HDF5 file.

    Raises:
        ShardError: a library is missing; the file is damaged, of another kind, not of 3 axes and perhaps channels,
            or too large; values are NaN, infinite or no real numbers; or its affine has no inverse.
    """
    raw = _read(path, dataset)
    values = raw.values[..., 0] if raw.values.ndim == 4 and raw.values.shape[3] == 1 else raw.values
    if values.ndim not in (3, 4) or not values.size:
        raise ShardError(f"{path}: shape {values.shape} is not that of a volume")
    if not np.isfinite(raw.affine).all() or not abs(np.linalg.det(raw.affine[:3, :3])) > 0:
        raise ShardError(f"{path}: its affine has no inverse, so its voxels have no size: fix the header")
    values, affine = _oriented(values, raw.affine, path)
    return Volume(_plain(values, path), affine, raw.stated)


def read_numbers(path: Path) -> Volume:
    """Read a mask, as the numbers in it; of a HDF5 file the dataset `label`.

    Returns:
        Values (H, W, D) are whole: int16 or int64.

    Raises:
        ShardError: see `read_volume`; or it has channels, or numbers that are not whole.
    """
    volume = read_volume(path, LABEL)
    if volume.values.ndim != 3:
        raise ShardError(f"{path}: a mask of {volume.values.shape[3]} channels, must have one number a voxel")
    if volume.values.dtype.kind != "f":
        return volume
    if (broken := volume.values[volume.values != np.rint(volume.values)]).size:
        raise ShardError(f"{path}: mask value {broken[0]:g} is not whole: masks hold class numbers")
    return Volume(volume.values.astype(np.int64), volume.affine, volume.stated)


def refuse_other_place(volume: Volume, path: Path, image: Volume, image_path: Path) -> None:
    """Check that two volumes have the same voxels at the same place.

    Raises:
        ShardError: they have not.
    """
    one, other = volume.values.shape[:3], image.values.shape[:3]
    if one != other:
        stated = f"{'x'.join(map(str, one))}, the image {image_path} {'x'.join(map(str, other))}"
        raise ShardError(f"{path}: it is {stated} (along x, y, z): they must be equal")
    corners = np.asarray([(*corner, 1) for corner in product(*((0, side - 1) for side in one))])
    apart = float(np.linalg.norm(corners @ (volume.affine - image.affine).T, axis=1).max())
    if apart > _SAME_PLACE * min(image.spacing):
        raise ShardError(
            f"{path}: it lies up to {apart:.3g} mm away from the image {image_path}: their affines must be equal"
        )


def _read(path: Path, dataset: str) -> RawVolume:
    if path.is_dir():
        return read_series(path)
    kind = ending(path.name).lower()
    if kind in (".nii", ".nii.gz"):
        return read_nifti_volume(path)
    if kind == ".nrrd":
        return read_nrrd(path)
    if kind in (".h5", ".hdf5"):
        return read_hdf5(path, dataset)
    raise ShardError(f"{path}: is none of {', '.join(VOLUMES)}, and no folder of .dcm files")


def _oriented(
    values: NDArray[Any], affine: NDArray[np.float64], path: Path
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Axes exchanged and turned about, nothing else."""
    try:
        from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
    except ModuleNotFoundError:
        raise missing_library(path, "nibabel") from None
    orientation = io_orientation(affine)
    turned = np.asarray(affine @ inv_ornt_aff(orientation, values.shape[:3]), np.float64)
    return np.asarray(apply_orientation(values, orientation)), turned


def _plain(values: NDArray[Any], path: Path) -> NDArray[Any]:
    """As int16 or float32 with the same numbers; whole ones of more than 24 bits are rounded."""
    if values.dtype.kind not in "biuf":
        raise ShardError(f"{path} holds {values.dtype}: values must be whole or real numbers")
    if values.dtype.kind != "f":
        held = np.iinfo(np.int16)
        if held.min <= int(values.min()) and int(values.max()) <= held.max:
            return values.astype(np.int16, copy=False)
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused
        values = values.astype(np.float32, copy=False)
    refuse_not_finite(values, path)
    return values
