"""Brings predictions back onto the pixels or voxels of the input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Geometry(Protocol):
    """How what the network sees lies in the input."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) of the input, or its three axes as stored."""
        ...

    @property
    def pixel(self) -> float | None:
        """Volume of a voxel of the input in ml; None for images, and where it is not known."""
        ...

    def restore(self, values: Tensor, outside: float) -> NDArray[np.float32]:
        """Return a map (*S) on the pixels of the input, interpolated linearly.

        Args:
            values: the map in the size that was predicted.
            outside: value of pixels that were not predicted.
        """
        ...

    def restore_classes(self, classes: Tensor) -> NDArray[np.uint8]:
        """Return classes (*S) uint8 on the pixels of the input, by nearest neighbour, 0 where none were predicted."""
        ...


@dataclass(frozen=True)
class PictureGeometry:
    """An image of which a box was predicted, in any size.

    Attributes:
        shape: (H, W) of the input.
        box: top, left, bottom and right of the box; it may reach beyond the image.
    """

    shape: tuple[int, ...]
    box: tuple[int, int, int, int]
    pixel: float | None = None

    @classmethod
    def whole(cls, shape: Sequence[int]) -> "PictureGeometry":
        """Return the geometry of an image that is predicted whole."""
        return cls((shape[0], shape[1]), (0, 0, shape[0], shape[1]))

    def restore(self, values: Tensor, outside: float) -> NDArray[np.float32]:
        """Resize to the box, bilinear, and place the box in the image."""
        top, left, bottom, right = self.box
        made = values.float()
        if tuple(made.shape) != (bottom - top, right - left):
            size = (bottom - top, right - left)
            made = torch.nn.functional.interpolate(made[None, None], size, mode="bilinear", antialias=True)[0, 0]
        return self._placed(made.numpy(), outside)

    def restore_classes(self, classes: Tensor) -> NDArray[np.uint8]:
        """Resize to the box, nearest neighbour, and place the box in the image."""
        top, left, bottom, right = self.box
        made = classes
        if tuple(made.shape) != (bottom - top, right - left):
            size = (bottom - top, right - left)
            made = torch.nn.functional.interpolate(made[None, None], size, mode="nearest-exact")[0, 0]
        return self._placed(made.numpy(), 0)

    def _placed(self, values: NDArray[Any], outside: float) -> NDArray[Any]:
        if self.box == (0, 0, *self.shape):
            return values
        top, left, bottom, right = self.box
        made = np.full(self.shape, outside, values.dtype)
        first = (max(top, 0), max(left, 0))
        last = (min(bottom, self.shape[0]), min(right, self.shape[1]))
        inside = values[first[0] - top : last[0] - top, first[1] - left : last[1] - left]
        made[first[0] : last[0], first[1] : last[1]] = inside
        return made


@dataclass(frozen=True)
class VolumeGeometry:
    """A volume that was turned to RAS, then cropped, then resampled about its centre.

    Attributes:
        shape: voxels along the axes of the file.
        affine: (4, 4) voxel -> mm in RAS, as the file states it.
        turned: voxels along the axes after turning to RAS.
        own_spacing: size in mm of these voxels along the axes of RAS.
        low: first voxel of the crop.
        high: voxel after the last of the crop.
        spacing: size in mm of the voxels that were predicted, along the axes of RAS.
        pixel: volume of a voxel of the file in ml; None if it is not known.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    turned: tuple[int, ...]
    own_spacing: tuple[float, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    spacing: tuple[float, ...]
    pixel: float | None

    def restore(self, values: Tensor, outside: float) -> NDArray[np.float32]:
        """Resample the map to the voxels of the crop, linearly, and place the crop in the volume."""
        return self._placed(self._resampled(values.float().numpy(), order=1), outside)

    def restore_classes(self, classes: Tensor) -> NDArray[np.uint8]:
        """Resample by nearest neighbour, and place the crop in the volume."""
        return self._placed(self._resampled(classes.numpy(), order=0), 0)

    def _resampled(self, values: NDArray[Any], order: int) -> NDArray[Any]:
        cropped = tuple(high - low for low, high in zip(self.low, self.high, strict=True))
        if values.shape == cropped:
            return values
        from scipy import ndimage

        # As `resample` of the importers: both grids have the same centre, and spacings say how far points are apart.
        ratio = np.asarray(self.own_spacing) / np.asarray(self.spacing)
        first = (np.asarray(values.shape) - 1) / 2 - (np.asarray(cropped) - 1) / 2 * ratio
        return ndimage.affine_transform(values, ratio, first.tolist(), cropped, order=order, mode="nearest")

    def _placed(self, values: NDArray[Any], outside: float) -> NDArray[Any]:
        from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

        made = values
        if values.shape != self.turned:
            made = np.full(self.turned, outside, values.dtype)
            made[tuple(slice(low, high) for low, high in zip(self.low, self.high, strict=True))] = values
        upright = np.asarray([[0, 1], [1, 1], [2, 1]])
        made = np.asarray(apply_orientation(made, ornt_transform(upright, io_orientation(self.affine))))
        assert made.shape == self.shape
        return made
