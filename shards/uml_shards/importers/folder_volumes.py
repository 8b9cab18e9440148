"""The part of the importer `folder` for volumes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError
from ..sources.binary import foreground
from ..sources.hdf5 import LABEL, has_label
from ..sources.masks import BLURRED
from ..sources.volume_files import Volume, ending, read_numbers, read_volume, refuse_other_place
from ..sources.volume_preparing import Preparation, encode_prepared
from .folder_masks import Joining, MaskFiles, refuse_unknown_classes


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
    image_path: Path,
    masks: MaskFiles,
    joining: Joining,
    how: Preparation,
    label: int | None,
    note: Callable[[str], None],
    meta: Mapping[str, Any],
) -> dict[str, bytes]:
    """Read and encode the components of one volume.

    Args:
        image_path: a file, or a folder of DICOM files.
        masks: mask files; empty if the volume is not segmented.
        joining: how the mask files become one mask.
        how: preparation of the volume.
        label: image class.
        note: told in one line what was done with the masks.
        meta: other entries of the json.

    Raises:
        ShardError: a file cannot be used, or a mask and the image do not have the same voxels.
    """
    image = read_volume(image_path, how.voxel_size)

    def read(mask_path: Path) -> NDArray[np.uint8]:
        return _read_mask(mask_path, joining, how.voxel_size, image, image_path, note)

    mask = joining.join(masks, read, note) if masks else None
    return encode_prepared(image, mask, how, image_path, label, note, meta)


def _read_mask(
    path: Path,
    joining: Joining,
    voxel_size: Sequence[float],
    image: Volume,
    image_path: Path,
    note: Callable[[str], None],
) -> NDArray[np.uint8]:
    if joining.values == "classes":
        mask = read_numbers(path, voxel_size)
        refuse_other_place(mask, path, image, image_path)
        refuse_unknown_classes(mask.values, len(joining.classes), path)
        return mask.values.astype(np.uint8)
    mask = read_volume(path, voxel_size, LABEL)
    if mask.values.ndim != 3:
        raise ShardError(f"{path}: the mask has {mask.values.shape[3]} channels, but must have one number per voxel")
    refuse_other_place(mask, path, image, image_path)
    if joining.values == "nonzero":
        return (mask.values != 0).astype(np.uint8)
    drawn, blurred = foreground(mask.values, path, joining.threshold)
    if blurred:
        note(BLURRED)
    return drawn
