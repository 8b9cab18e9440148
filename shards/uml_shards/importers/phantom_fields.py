"""Random numbers and smooth random fields of the phantoms, as pure functions of a key."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..keyed import keyed_uniform, word

Floats = NDArray[np.float64]


class Scalars:
    """Uniform random numbers of one phantom, by name.

    Args:
        key: key of the phantom.
        names: all names that will be asked for.
    """

    def __init__(self, key: int, names: Sequence[str]) -> None:
        self.key = key
        # One call for all names: hashing thirty words costs about as much as hashing one.
        words = np.array([word(name) for name in names], dtype=np.uint64)
        self.values = dict(zip(names, keyed_uniform(key, words).tolist(), strict=True))

    def __call__(self, name: str, low: float = 0.0, high: float = 1.0) -> float:
        """Return the number of a name, between two bounds."""
        return low + (high - low) * self.values[name]

    def several(self, name: str, count: int, low: float = 0.0, high: float = 1.0) -> Floats:
        """Return `count` numbers of one name, which need not be among `names`."""
        return low + (high - low) * keyed_uniform(self.key, name, np.arange(count))


def smooth_field(key: int, name: str, shape: Sequence[int], cells: Sequence[int]) -> Floats:
    """Return a smooth random field with mean 0 and standard deviation about 1.

    Args:
        key: key of the phantom.
        name: name of the field.
        shape: size along each axis.
        cells: about how many bumps the field has along each axis.
    """
    knots = [count + 3 for count in cells]
    field = keyed_uniform(key, name, np.arange(int(np.prod(knots)))).reshape(knots) - 0.5
    for axis, (size, count) in enumerate(zip(shape, cells, strict=True)):
        first, weights = _spline(size, count, len(shape))
        # Four explicit taps per axis are as fast as a matrix product and start no BLAS threads in worker processes.
        grid = np.moveaxis(field, axis, -1)
        made = np.zeros((*grid.shape[:-1], size))
        for tap in range(4):
            made += weights[:, tap] * grid[..., first + tap]
        field = np.moveaxis(made, -1, axis)
    return field


def smooth_step(t: Floats) -> Floats:
    """Return a smooth step from 0 at t = -1 to 1 at t = 1."""
    ramp = np.clip(0.5 + 0.5 * t, 0.0, 1.0)
    return ramp * ramp * (3.0 - 2.0 * ramp)


@lru_cache(maxsize=16)
def coordinates(size: int) -> tuple[Floats, Floats]:
    """Return the columns and rows of the pixel centres of a square image, (H, W) each, from -1 to 1."""
    axis = (2.0 * np.arange(size) + 1.0) / size - 1.0
    x, y = np.meshgrid(axis, axis)
    return x, y


@lru_cache(maxsize=64)
def _spline(size: int, cells: int, axes: int) -> tuple[NDArray[np.int64], Floats]:
    """Return, for a cubic B-spline on cells + 3 knots, each pixel's first knot (size,) and four weights (size, 4).

    The weights are scaled so that a field with this number of axes has standard deviation 1.
    """
    place = (np.arange(size) + 0.5) / size * cells
    first = np.floor(place).astype(np.int64)
    gap = np.abs((place - first)[:, None] + 1.0 - np.arange(4))
    near = 2.0 / 3.0 - gap**2 + gap**3 / 2.0
    far = np.maximum(2.0 - gap, 0.0) ** 3 / 6.0
    weights = np.where(gap < 1.0, near, far)
    # A uniform number has variance 1/12; each axis contributes its share of the correction to 1.
    return first, weights * np.sqrt(12.0 ** (1.0 / axes) / np.mean(np.sum(weights**2, axis=1)))
