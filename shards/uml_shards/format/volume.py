"""Volumes as plain `.npy` components, not compressed: a patch of one is read without the rest.

In C order a patch lies in one run of bytes per step of the first axis: H reads of W x (all of D), where a patch covers
most of the last axis in practice. Pickles are never read, and bytes cannot claim to be more voxels than they are.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError
from ..sample import IGNORE

IMAGE = "npy"
"""Component of the image: (H, W, D), or (H, W, D, channels)."""

MASK = "mask.npy"
"""Component of the mask: (H, W, D) uint8."""

DTYPES = ("|u1", "<u2", "<i2", "<f2", "<f4")
"""Of an image as stored."""

HEADER_BYTES = 512
"""At least as many as the header of a .npy file of four axes takes: numpy's own has 128."""


@dataclass(frozen=True)
class Header:
    """What the first bytes of a component say.

    Attributes:
        shape: (H, W, D, channels) of an image; (H, W, D) of a mask.
        dtype: of the voxels.
        start: offset of the first voxel.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    start: int

    @property
    def bytes(self) -> int:
        """Of the whole component."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize


def encode_volume(values: NDArray) -> bytes:
    """A volume, or a mask, as a component; its dtype must be one of `DTYPES`, in whatever byte order.

    Raises:
        ShardError: it has another dtype, or other than 3 or 4 axes.
    """
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    _check(values.shape, values.dtype, "volume")
    buffer = BytesIO()
    np.lib.format.write_array(buffer, values, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def parse_header(data: bytes, size: int, extension: str) -> Header:
    """The header of a component.

    Args:
        data: its first `HEADER_BYTES`, or all of it.
        size: bytes of the whole component.
        extension: `IMAGE` or `MASK`.

    Raises:
        ShardError: it is no .npy file in C order of a dtype that volumes have, or its size is not what its shape says.
    """
    file = BytesIO(data)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("its version is not 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except (ValueError, TypeError, SyntaxError, EOFError, OverflowError, MemoryError) as error:
        raise ShardError(f"{extension}: no .npy of version 1.0: {' '.join(str(error).split())}") from None
    if fortran:
        raise ShardError(f"{extension}: must be in C order, is in Fortran order")
    _check(shape, dtype, extension)
    if extension == IMAGE and len(shape) == 3:
        shape = (*shape, 1)
    header = Header(tuple(shape), dtype, file.tell())
    if header.bytes != size:
        raise ShardError(f"{extension}: has {size} bytes, its shape {_text(shape)} of {dtype} needs {header.bytes}")
    return header


def decode_volume(data: bytes) -> NDArray:
    """A volume (H, W, D, channels), read-only, in its stored dtype.

    Raises:
        ShardError: see `parse_header`; or a voxel is NaN or infinite.
    """
    values = _array(data, parse_header(data, len(data), IMAGE))
    check_finite(values)
    return values


def decode_volume_mask(data: bytes, classes: int) -> NDArray[np.uint8]:
    """A mask (H, W, D) of class numbers, 255 = ignore.

    Raises:
        ShardError: see `parse_header`; or a value is no class.
    """
    mask = _array(data, parse_header(data, len(data), MASK))
    check_classes(mask, classes)
    return mask


def read_patch(
    descriptor: int, offset: int, header: Header, corner: Sequence[int], size: Sequence[int], extension: str
) -> NDArray:
    """A part of a component in an open tar: one `pread` per step of its first axis.

    Args:
        descriptor: of the tar.
        offset: of the component in it.
        header: of the component.
        corner: (3,) first voxel.
        size: (3,) voxels along each axis; corner + size lies inside.
        extension: of the component, for errors.

    Raises:
        ShardError: the tar ends before.
    """
    row = math.prod(header.shape[2:])
    plane, item = header.shape[1] * row, header.dtype.itemsize
    patch = np.empty((size[0], size[1], *header.shape[2:]), header.dtype)
    for step in range(size[0]):
        first = offset + header.start + ((corner[0] + step) * plane + corner[1] * row) * item
        if os.preadv(descriptor, [patch[step].reshape(-1).view(np.uint8).data], first) != size[1] * row * item:
            raise ShardError(f"{extension}: the tar ends before its last voxel: verify it")
    return patch[:, :, corner[2] : corner[2] + size[2]]


def check_finite(values: NDArray) -> None:
    """Refuse NaN and infinity.

    Raises:
        ShardError: there are some.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ShardError(f"{IMAGE}: {int((~np.isfinite(values)).sum())} voxels are NaN or infinite")


def check_classes(mask: NDArray[np.uint8], classes: int) -> None:
    """Refuse what is neither a class number nor 255 = ignore.

    Raises:
        ShardError: there is some.
    """
    wrong = (mask >= classes) & (mask != IGNORE)
    if wrong.any():
        raise ShardError(f"{MASK}: value {mask[wrong][0]} is out of range: {classes} mask classes, and 255 = ignore")


def _check(shape: Sequence[int], dtype: np.dtype, extension: str) -> None:
    """Refuse what no volume, or no mask, is."""
    dtypes, axes = (("|u1",), (3,)) if extension == MASK else (DTYPES, (3, 4))
    if dtype.str not in dtypes:
        names = ", ".join(np.dtype(kind).name for kind in dtypes)
        raise ShardError(f"{extension}: dtype {dtype} is not read: must be {names}")
    if len(shape) not in axes or not all(side > 0 for side in shape):
        raise ShardError(
            f"{extension}: shape {_text(shape)} is not that of a volume: {' or '.join(map(str, axes))} axes"
        )


def _array(data: bytes, header: Header) -> NDArray:
    return np.frombuffer(data, header.dtype, offset=header.start).reshape(header.shape)


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
