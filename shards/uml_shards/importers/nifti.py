"""NIfTI volumes at shard time, through the extra `nifti`."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError


def open_nifti(path: Path) -> Any:
    """A volume's header and lazy data, in the orientation that it is stored in.

    Raises:
        ShardError: nibabel is missing, or the file is no NIfTI of three dimensions.
    """
    try:
        from nibabel.filebasedimages import ImageFileError
        from nibabel.nifti1 import load
        from nibabel.wrapstruct import WrapStructError
    except ModuleNotFoundError:
        raise ShardError(f"{path} needs nibabel: pip install 'uml-shards[nifti]'") from None
    try:
        volume = load(path)
    except (OSError, ValueError, EOFError, ImageFileError, WrapStructError) as error:
        raise ShardError(f"{path} cannot be opened: {' '.join(str(error).split())}") from None
    if len(volume.shape) != 3:
        raise ShardError(f"{path} has {len(volume.shape)} dimensions, must have 3: {volume.shape}")
    return volume


def read_volume(path: Path) -> NDArray[np.float32]:
    """The scaled values of a volume.

    Raises:
        ShardError: see `open_nifti`; or the data are cut, or hold NaN or infinite values.
    """
    volume = open_nifti(path)
    try:
        values = np.asarray(volume.dataobj, dtype=np.float32)
    except (OSError, ValueError, EOFError) as error:
        raise ShardError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not np.isfinite(values).all():
        raise ShardError(f"{path} holds {int((~np.isfinite(values)).sum())} values that are NaN or infinite: mend it")
    return values
