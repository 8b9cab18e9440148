"""Phantom volumes: an organ among look-alikes, generated with the foreground probability of every voxel.

The organ is an ellipsoid with lobes and dents. Around it lie vessels that touch it, nodules and a plate, which are as
bright as the organ; it differs from them in its size, its shape and its grain. Brightness of organ and surroundings,
contrast, grain, bias field and noise vary from volume to volume, so that a few volumes do not show their range.

The foreground probability V/255 of a voxel, with V an 8-bit integer, is a smooth step of its distance to the surface of
the organ. The step is as wide as the surface looks soft there, which varies along the surface: the intensity is mixed
by the same V. The mask is what one observer draws, V > 255 u, where u is a smooth field over the volume that is uniform
at every voxel; see `phantom_pictures`. The marginal probability of every voxel is therefore exactly V/255.

Sample i of a split depends on (seed, split, i) and the size only. All arithmetic is in float64 and rounded to integers
once at the end, so that platforms agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..keyed import keyed_bits, keyed_uniform
from .phantom_fields import Floats, Scalars, smooth_field, smooth_step

SPACING = (1.0, 1.0, 1.5)
"""Voxel size of a volume of 48 voxels per side, in mm. Larger volumes have smaller voxels."""

SIDES = (48.0, 48.0, 51.0)
"""Mean extent along each axis, in mm."""

SPREAD = 1.0 / 16.0
"""Largest relative difference of a side from its mean: a volume of 48 voxels per side has 45 to 51, and 32 to 36."""

SOFTNESS = (0.3, 1.6)
"""Half the width of the step at the sharpest and at the softest part of a surface, in mm."""

NODULES = 4
VESSELS = 3
LOBES = 7

_SCALARS = (
    *("mask", "x", "y", "z", "radius", "softest", "inside", "outside", "contrast", "grain", "bias", "noise"),
    *("plate", "plate offset", "plate thickness"),
)


@dataclass(frozen=True)
class PhantomVolume:
    """A volume with its mask and the true probabilities.

    Attributes:
        image: (H, W, D), uint8.
        mask: (H, W, D), uint8, 0 background and 1 organ, drawn from `foreground`.
        foreground: (H, W, D), uint8, 255 times the probability of organ.
        spacing: voxel size in mm along each axis.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    foreground: NDArray[np.uint8]
    spacing: tuple[float, float, float]


def draw(seed: int, split: str, number: int, size: int) -> PhantomVolume:
    """Generate a phantom of about size x size x 0.7 size voxels; a pure function of its arguments."""
    key = int(keyed_bits("phantom volume", seed, split, number))
    scalar = Scalars(key, _SCALARS)
    x_step, y_step, z_step = (step * SIDES[0] / size for step in SPACING)
    spacing = (x_step, y_step, z_step)
    sides = np.array(SIDES) * (1.0 + SPREAD * (2.0 * scalar.several("sides", 3) - 1.0))
    shape = [round(float(side) / step) for side, step in zip(sides, spacing, strict=True)]
    x, y, z = _coordinates(shape, spacing)
    centre = np.array([scalar(axis, -5.0, 5.0) for axis in "xyz"])

    depth = _organ_depth(scalar, (x, y, z), centre, spacing)
    softness = _softness(scalar, key, shape)
    foreground = np.rint(255.0 * smooth_step(depth / softness)).astype(np.uint8)
    organ = foreground / 255.0

    outside = scalar("outside", 0.15, 0.5) + 0.06 * smooth_field(key, "tissue", shape, [5] * 3)
    inside = outside + scalar("contrast", 0.21, 0.42)
    grain = scalar("grain", 0.04, 0.09) * smooth_field(key, "grain", shape, [14] * 3)
    # Without a gap between them and the organ, nothing in the image would show where the organ ends.
    apart = np.maximum(_nodules(scalar, (x, y, z)), _plate(scalar, x, y)) * smooth_step(-0.7 * depth - 2.0)
    others = np.maximum(apart, _vessels(scalar, (x, y, z), centre))
    image = outside + (inside - outside) * np.maximum(organ, others) + grain * organ
    image *= np.exp(scalar("bias", 0.05, 0.22) * smooth_field(key, "bias", shape, [1] * 3))
    image += scalar("noise", 0.02, 0.05) * _noise(key, shape)

    wave = 2.0 * np.mod(scalar("mask") + 0.25 * smooth_field(key, "mask", shape, [3] * 3), 1.0) - 1.0
    return PhantomVolume(
        image=np.rint(255.0 * np.clip(image, 0.0, 1.0)).astype(np.uint8),
        mask=(foreground > 255.0 * np.abs(wave)).astype(np.uint8),
        foreground=foreground,
        spacing=spacing,
    )


def _organ_depth(scalar: Scalars, place: Sequence[Floats], centre: Floats, spacing: Sequence[float]) -> Floats:
    """Return the depth below the surface of the organ in mm, negative outside: exact near the surface only."""
    offsets = [axis - middle for axis, middle in zip(place, centre, strict=True)]
    semiaxes = scalar("radius", 10.5, 13.0) * (1.0 + scalar.several("elongation", 3, -0.25, 0.25))
    axes = _rotation(scalar.several("rotation", 4, -1.0, 1.0))
    turned = [sum(part * step for part, step in zip(row, offsets, strict=True)) for row in axes]
    radius = np.sqrt(sum((part / side) ** 2 for part, side in zip(turned, semiaxes, strict=True))) + 1e-9
    distance = np.sqrt(sum(part * part for part in offsets)) + 1e-9
    edge = np.ones_like(radius)
    directions = scalar.several("lobes", 3 * LOBES, -1.0, 1.0).reshape(LOBES, 3)
    heights = scalar.several("heights", LOBES, -0.22, 0.38)
    for direction, height in zip(directions, heights, strict=True):
        direction = direction / np.sqrt(np.sum(direction**2))
        towards = sum(part * step for part, step in zip(direction, offsets, strict=True)) / distance
        edge += height * np.exp(6.0 * (towards - 1.0))
    level = 1.0 - radius / np.maximum(edge, 0.4)
    # The level divided by the length of its gradient is, to first order, the distance to the surface.
    gradient = np.gradient(level, *spacing)
    return level / np.maximum(np.sqrt(sum(part * part for part in gradient)), 0.02)


def _softness(scalar: Scalars, key: int, shape: Sequence[int]) -> Floats:
    """Return half the width of the step of the foreground probability, in mm: sharp here, gradual there."""
    low, high = SOFTNESS
    share = np.clip(0.35 + 0.3 * smooth_field(key, "softness", shape, [3] * 3), 0.0, 1.0)
    return low + (high - low) * scalar("softest", 0.4, 1.0) * share


def _vessels(scalar: Scalars, place: Sequence[Floats], centre: Floats) -> Floats:
    """Return how far each voxel is inside of a straight vessel from the organ to the outside, in [0, 1]."""
    found = np.zeros_like(place[0])
    for *towards, thickness, aside in scalar.several("vessels", 5 * VESSELS).reshape(VESSELS, 5):
        direction = np.array(towards) * 2.0 - 1.0
        direction /= np.sqrt(np.sum(direction**2)) + 1e-9
        offsets = [axis - middle - 4.0 * (aside - 0.5) for axis, middle in zip(place, centre, strict=True)]
        along = sum(part * step for part, step in zip(direction, offsets, strict=True))
        across = np.sqrt(np.maximum(sum(part * part for part in offsets) - along * along, 0.0))
        inside = smooth_step((1.2 + 1.4 * thickness - across) / 0.8)
        found = np.maximum(found, inside * (along > 6.0))
    return found


def _nodules(scalar: Scalars, place: Sequence[Floats]) -> Floats:
    """Return how far each voxel is inside of a nodule, a sphere near the outside, in [0, 1]."""
    found = np.zeros_like(place[0])
    for *towards, distance, size in scalar.several("nodules", 5 * NODULES).reshape(NODULES, 5):
        direction = np.array(towards) * 2.0 - 1.0
        middle = direction / (np.sqrt(np.sum(direction**2)) + 1e-9) * (17.0 + 6.0 * distance)
        gap = np.sqrt(sum((axis - at) ** 2 for axis, at in zip(place, middle, strict=True)))
        found = np.maximum(found, smooth_step((2.0 + 3.0 * size - gap) / 1.0))
    return found


def _plate(scalar: Scalars, x: Floats, y: Floats) -> Floats:
    """Return how far each voxel is inside of a curved plate along z beside the organ, in [0, 1]."""
    turn = np.exp(2j * np.pi * scalar("plate"))
    across, along = x * turn.real + y * turn.imag, y * turn.real - x * turn.imag
    gap = np.abs(across - scalar("plate offset", 17.0, 21.0) + 0.012 * along * along)
    return smooth_step((scalar("plate thickness", 1.0, 2.5) - gap) / 0.8)


def _noise(key: int, shape: Sequence[int]) -> Floats:
    """Return noise of mean 0 and standard deviation 1 that differs at every voxel."""
    count = int(np.prod(shape))
    parts = [keyed_uniform(key, "noise", part, np.arange(count)) for part in range(3)]
    return 2.0 * (parts[0] + parts[1] + parts[2] - 1.5).reshape(shape)


def _rotation(quaternion: Floats) -> Floats:
    """Return the matrix (3, 3) of a rotation."""
    w, x, y, z = quaternion / np.sqrt(np.sum(quaternion**2) + 1e-12)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _coordinates(shape: Sequence[int], spacing: Sequence[float]) -> list[Floats]:
    """Return the position of the voxel centres along each axis, (H, W, D) each, in mm from the centre of the volume."""
    axes = [(np.arange(side) + 0.5 - side / 2.0) * step for side, step in zip(shape, spacing, strict=True)]
    return [np.asarray(axis, np.float64) for axis in np.meshgrid(*axes, indexing="ij")]
