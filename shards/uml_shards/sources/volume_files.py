"""Read volume files of any supported format in a common orientation and a dtype that shards support."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError, reading
from .dicom import read_series
from .hdf5 import IMAGE, LABEL, read_hdf5
from .nifti import read_nifti_volume
from .nrrd import read_nrrd
from .raw_volume import RawVolume, missing_library, refuse_not_finite

VOLUMES = (".nii.gz", ".nii", ".nrrd", ".h5", ".hdf5")
"""Extensions of supported files, case-insensitive. A folder of .dcm files is a volume too."""

_SAME_PLACE = 0.1
"""Largest distance between corresponding corners of two volumes of a patient, in voxels."""

_SIZES = (1e-6, 1e4)
"""Smallest and largest voxel size, in mm: microscopy and whole bodies lie far inside."""

_FLAT = 1e-4
"""Volume of the voxel below which an affine has no inverse, as a fraction of a cuboid with the same edges."""


@dataclass(frozen=True)
class Volume:
    """A volume whose axes are closest to right, anterior and superior (RAS), without resampling.

    Attributes:
        values: (H, W, D) or (H, W, D, channels), along x, y and z; int16 or float32. Unsigned dtypes are not used:
            files of one data set often mix signed and unsigned integers, and shards scale unsigned ones to [0, 1].
        affine: (4, 4) float64, voxel -> mm in RAS.
        stated: whether the voxel size is known; if not, the voxels of the affine have 1 mm.
    """

    values: NDArray[Any]
    affine: NDArray[np.float64]
    stated: bool = True

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along each axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z


def ending(name: str) -> str:
    """Return the extension of a volume file as written in its name; "" if the file is not a volume."""
    found = next((known for known in VOLUMES if name.lower().endswith(known)), "")
    return name[len(name) - len(found) :]


def read_volume(path: Path, voxel_size: Sequence[float] = (), dataset: str = IMAGE) -> Volume:
    """Read a volume.

    Integers without a scale become int16 if they fit; all other values become float32.

    Args:
        path: a file, or a folder of DICOM files.
        voxel_size: voxel size in mm along x, y and z of a file that states none; () if it is unknown.
        dataset: name of the dataset in an HDF5 file.

    Raises:
        ShardError: a library is missing; the file is damaged, has an unsupported format, is too large, or does not have
            3 axes and optional channels; values are NaN, infinite or not real numbers; or the affine is singular.
    """
    return turned_to_ras(read_raw_volume(path, dataset), path, voxel_size)


def read_raw_volume(path: Path, dataset: str = IMAGE) -> RawVolume:
    """Read a volume in the orientation of its file, with its own affine.

    Args:
        path: a file, or a folder of DICOM files.
        dataset: name of the dataset in an HDF5 file.

    Raises:
        ShardError: see `read_volume`.
    """
    raw = _read(path, dataset)
    values = raw.values[..., 0] if raw.values.ndim == 4 and raw.values.shape[3] == 1 else raw.values
    if values.ndim not in (3, 4) or not values.size:
        raise ShardError(f"{path}: shape {values.shape} is not valid for a volume")
    _refuse_affine(raw.affine, path)
    return RawVolume(values, raw.affine, raw.stated)


def turned_to_ras(raw: RawVolume, path: Path, voxel_size: Sequence[float] = ()) -> Volume:
    """Return a volume of `read_raw_volume` as `read_volume` does, without resampling."""
    values, affine = _oriented(raw.values, raw.affine, path)
    return _with_size(Volume(_plain(values, path), affine, raw.stated), voxel_size)


def read_numbers(path: Path, voxel_size: Sequence[float] = ()) -> Volume:
    """Read the numbers of a mask, see `read_volume`. In an HDF5 file, the dataset `label` is read.

    Returns:
        A volume with integer values (H, W, D): int16 or int64.

    Raises:
        ShardError: see `read_volume`; or the mask has channels or non-integer values.
    """
    volume = read_volume(path, voxel_size, LABEL)
    if volume.values.ndim != 3:
        raise ShardError(f"{path}: the mask has {volume.values.shape[3]} channels, but must have one number per voxel")
    if volume.values.dtype.kind != "f":
        return volume
    if (broken := volume.values[volume.values != np.rint(volume.values)]).size:
        raise ShardError(f"{path}: mask value {broken[0]:g} is not an integer: masks must contain class numbers")
    return Volume(volume.values.astype(np.int64), volume.affine, volume.stated)


def refuse_other_place(volume: Volume, path: Path, image: Volume, image_path: Path) -> None:
    """Check that two volumes have the same shape and position.

    A voxel size that only one of them states is taken for both.

    Raises:
        ShardError: shape or position differ.
    """
    one, other = volume.values.shape[:3], image.values.shape[:3]
    if one != other:
        sizes = f"{'x'.join(map(str, one))}, but the image {image_path} is {'x'.join(map(str, other))}"
        raise ShardError(f"{path}: the volume is {sizes} (along x, y, z): the shapes must be equal")
    here = _with_size(volume, image.spacing if image.stated else ())
    there = _with_size(image, volume.spacing if volume.stated else ())
    corners = np.asarray([(*corner, 1) for corner in product(*((0, side - 1) for side in one))])
    apart = float(np.linalg.norm(corners @ (here.affine - there.affine).T, axis=1).max())
    if apart > _SAME_PLACE * min(there.spacing):
        silent = next((at for at, one in ((path, volume), (image_path, image)) if not one.stated), None)
        unknown = f", and {silent} does not state its voxel size" if silent and volume.stated != image.stated else ""
        raise ShardError(
            f"{path}: the volume is up to {apart:.3g} mm away from the image {image_path}{unknown}: "
            "their affines must be equal"
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
    raise ShardError(f"{path}: must be one of {', '.join(VOLUMES)}, or a folder of .dcm files")


def _refuse_affine(affine: NDArray[np.float64], path: Path) -> None:
    """Refuse an affine that states no place or no possible voxel size."""
    with np.errstate(all="ignore"):
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        flat = not abs(np.linalg.det(affine[:3, :3] / sizes)) > _FLAT
    if flat or not np.isfinite(affine).all():
        raise ShardError(f"{path}: the affine has no inverse, so the voxel size is undefined: fix the header")
    low, high = _SIZES
    if not ((low <= sizes) & (sizes <= high)).all():
        raise ShardError(f"{path}: the voxel size is {_text(sizes)} mm, outside {low:g} to {high:g} mm: fix the header")


def _oriented(
    values: NDArray[Any], affine: NDArray[np.float64], path: Path
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Permute and flip the axes to RAS, without resampling."""
    try:
        from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
    except ModuleNotFoundError:
        raise missing_library(path, "nibabel") from None
    with reading(path):
        orientation = io_orientation(affine)
        turned = np.asarray(affine @ inv_ornt_aff(orientation, values.shape[:3]), np.float64)
        return np.asarray(apply_orientation(values, orientation)), turned


def _with_size(volume: Volume, size: Sequence[float]) -> Volume:
    """Return the volume with a voxel size, in mm along each axis, if its own is unknown and one is given."""
    if volume.stated or not len(size):
        return volume
    ratio = np.asarray(size) / np.asarray(volume.spacing)
    return Volume(volume.values, volume.affine @ np.diag([*ratio, 1.0]))


def _text(sizes: NDArray[np.float64]) -> str:
    return " x ".join(f"{size:.3g}" for size in sizes)


def _plain(values: NDArray[Any], path: Path) -> NDArray[Any]:
    """Convert to int16 if lossless, else to float32, which rounds integers of more than 24 bits."""
    if values.dtype.kind not in "biuf":
        raise ShardError(f"{path} has dtype {values.dtype}: values must be integers or real numbers")
    if values.dtype.kind != "f":
        held = np.iinfo(np.int16)
        if held.min <= int(values.min()) and int(values.max()) <= held.max:
            return values.astype(np.int16, copy=False)
    with np.errstate(over="ignore"):  # values too large for float32 become infinite, which is refused
        values = values.astype(np.float32, copy=False)
    refuse_not_finite(values, path)
    return values
