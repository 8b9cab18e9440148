"""Volumes stored as uncompressed `.npy` components, so that a patch can be read without the complete volume.

In C order, a patch takes one contiguous read per step of the first axis: H reads of W x (all of D). In practice a patch
covers most of the last axis. Pickles are never loaded, and the header must match the number of bytes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError, reading
from ..files import read_into
from ..sample import IGNORE
from .npy import parse_npy_header

IMAGE = "npy"
"""Extension of the image component: (H, W, D), or (H, W, D, channels)."""

MASK = "mask.npy"
"""Extension of the mask component: (H, W, D) uint8."""

TRUTH = "truth.npy"
"""Extension of the component of generated volumes with 255 times the foreground probability: (H, W, D) uint8."""

DTYPES = ("|u1", "<u2", "<i2", "<f2", "<f4")
"""Allowed dtypes of a stored image."""

HEADER_BYTES = 512
"""Upper bound for the header of a .npy file with four axes; numpy writes 128 bytes."""


@dataclass(frozen=True)
class Header:
    """The parsed header of a component.

    Attributes:
        shape: (H, W, D, channels) for an image; (H, W, D) for a mask or the truth.
        dtype: dtype of the voxels.
        start: offset of the first voxel in bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    start: int

    @property
    def bytes(self) -> int:
        """Size of the complete component."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize


def encode_volume(values: NDArray) -> bytes:
    """Encode a volume or a mask as a component. Its dtype must be one of `DTYPES`, in any byte order.

    Raises:
        ShardError: the dtype is not supported, or there are not 3 or 4 axes.
    """
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    _check(values.shape, values.dtype, "volume")
    buffer = BytesIO()
    np.lib.format.write_array(buffer, values, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def parse_header(data: bytes, size: int, extension: str) -> Header:
    """Parse the header of a component.

    Args:
        data: the first `HEADER_BYTES` of the component, or all of it.
        size: size of the complete component in bytes.
        extension: `IMAGE`, `MASK` or `TRUTH`.

    Raises:
        ShardError: the data are not a .npy file in C order with a supported dtype, or size and shape do not match.
    """
    with reading(f"{extension}:"):
        stated = parse_npy_header(data)
        dtype = np.dtype(stated.descr.strip("'"))
    if stated.fortran:
        raise ShardError(f"{extension}: must be in C order, but is in Fortran order")
    shape = stated.shape
    _check(shape, dtype, extension)
    if extension == IMAGE and len(shape) == 3:
        shape = (*shape, 1)
    header = Header(shape, dtype, stated.start)
    if header.bytes != size:
        raise ShardError(f"{extension}: has {size} bytes, but shape {_text(shape)} of {dtype} needs {header.bytes}")
    return header


def decode_volume(data: bytes) -> NDArray:
    """Decode a volume (H, W, D, channels), read-only, in its stored dtype.

    Raises:
        ShardError: see `parse_header`; or a voxel is NaN or infinite.
    """
    values = _array(data, parse_header(data, len(data), IMAGE))
    check_finite(values)
    return values


def decode_volume_mask(data: bytes, classes: int) -> NDArray[np.uint8]:
    """Decode a mask (H, W, D) of class numbers, 255 = ignore.

    Raises:
        ShardError: see `parse_header`; or a value is not a class number.
    """
    mask = _array(data, parse_header(data, len(data), MASK))
    check_classes(mask, classes)
    return mask


def decode_volume_truth(data: bytes) -> NDArray[np.uint8]:
    """Decode 255 times the foreground probability of each voxel, (H, W, D).

    Raises:
        ShardError: see `parse_header`.
    """
    return _array(data, parse_header(data, len(data), TRUTH))


def read_patch(
    descriptor: int, offset: int, header: Header, corner: Sequence[int], size: Sequence[int], extension: str
) -> NDArray:
    """Read a part of a component in an open tar with one `pread` per step of its first axis.

    Args:
        descriptor: file descriptor of the tar.
        offset: offset of the component in the tar.
        header: header of the component.
        corner: (3,) first voxel.
        size: (3,) voxels along each axis; corner + size is inside the volume.
        extension: extension of the component, for error messages.

    Raises:
        ShardError: the tar ends before the last voxel.
    """
    row = math.prod(header.shape[2:])
    plane, item = header.shape[1] * row, header.dtype.itemsize
    patch = np.empty((size[0], size[1], *header.shape[2:]), header.dtype)
    for step in range(size[0]):
        first = offset + header.start + ((corner[0] + step) * plane + corner[1] * row) * item
        if read_into(descriptor, patch[step].reshape(-1).view(np.uint8).data, first) != size[1] * row * item:
            raise ShardError(f"{extension}: the tar ends before the last voxel: verify the shard")
    return patch[:, :, corner[2] : corner[2] + size[2]]


def check_finite(values: NDArray) -> None:
    """Check that no voxel is NaN or infinite.

    Raises:
        ShardError: some voxels are.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ShardError(f"{IMAGE}: {int((~np.isfinite(values)).sum())} voxels are NaN or infinite")


def check_classes(mask: NDArray[np.uint8], classes: int) -> None:
    """Check that every voxel is a class number or 255 = ignore.

    Raises:
        ShardError: a value is neither.
    """
    wrong = (mask >= classes) & (mask != IGNORE)
    if wrong.any():
        raise ShardError(f"{MASK}: value {mask[wrong][0]} is out of range: {classes} mask classes, and 255 = ignore")


def _check(shape: Sequence[int], dtype: np.dtype, extension: str) -> None:
    """Check dtype and number of axes of a volume or a mask."""
    dtypes, axes = (("|u1",), (3,)) if extension in (MASK, TRUTH) else (DTYPES, (3, 4))
    if dtype.str not in dtypes:
        names = ", ".join(np.dtype(kind).name for kind in dtypes)
        raise ShardError(f"{extension}: dtype {dtype} is not supported: must be {names}")
    if len(shape) not in axes or not all(side > 0 for side in shape):
        raise ShardError(
            f"{extension}: shape {_text(shape)} is not valid for a volume: needs {' or '.join(map(str, axes))} axes"
        )


def _array(data: bytes, header: Header) -> NDArray:
    return np.frombuffer(data, header.dtype, offset=header.start).reshape(header.shape)


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
