"""The part of the importer `folder` for volumes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError
from ..sample import IGNORE
from ..sources.hdf5 import has_label
from ..sources.masks import MaskValues
from ..sources.volume_files import Volume, ending, read_numbers, read_volume, refuse_other_place
from ..sources.volume_preparing import Preparation, encode_prepared


def with_own_masks(images: Mapping[str, Path], masks: Mapping[str, tuple[Path, ...]]) -> dict[str, tuple[Path, ...]]:
    """Add to the masks of `find_masks` those stored in the HDF5 file of the image.

    Raises:
        ShardError: there are HDF5 files, but h5py is missing.
    """
    own = {
        name: (path,)
        for name, path in images.items()
        if ending(path.name).lower() in (".h5", ".hdf5") and path.is_file() and has_label(path)
    }
    return {name: (*own.get(name, ()), *masks.get(name, ())) for name in images if name in own or name in masks}


def encode_volume_files(
    image_path: Path, masks: Sequence[Path], values: MaskValues, classes: int, how: Preparation, label: int | None
) -> dict[str, bytes]:
    """Read and encode the components of one volume.

    Args:
        image_path: a file, or a folder of DICOM files.
        masks: mask files, merged if there are several; empty if the volume is not segmented.
        values: interpretation of the mask values.
        classes: number of mask classes.
        how: preparation of the volume.
        label: image class.

    Raises:
        ShardError: a file cannot be used, or a mask and the image do not have the same voxels.
    """
    image = read_volume(image_path, how.voxel_size)
    drawn = {path: read_numbers(path, how.voxel_size) for path in masks}
    read = [_classes(mask, path, values, classes, image, image_path) for path, mask in drawn.items()]
    mask = np.bitwise_or.reduce(read) if read else None
    return encode_prepared(image, mask, how, image_path, label)


def _classes(
    mask: Volume, path: Path, values: MaskValues, classes: int, image: Volume, image_path: Path
) -> NDArray[np.uint8]:
    """Return the class numbers of a mask of an image."""
    refuse_other_place(mask, path, image, image_path)
    numbers = mask.values
    if values == "binary":
        return (numbers != 0).astype(np.uint8)
    if (wrong := numbers[((numbers < 0) | (numbers >= classes)) & (numbers != IGNORE)]).size:
        raise ShardError(f"{path}: mask value {wrong[0]} is not a class: there are {classes} classes, and 255 = ignore")
    return numbers.astype(np.uint8)
