"""The eye of a phantom retina without lesions, and things that resemble lesions. See `phantom_retinas`."""

from dataclasses import dataclass

import numpy as np

from .phantom_fields import Floats, Scalars, smooth_field, smooth_step

SCALARS = (
    *("side", "disc row", "disc radius", "macula", "tone", "exposure", "vignette"),
    *("naevi", "reflections", "drusen", "dust"),
)
"""Names of the random numbers that are used here."""

RADIUS = 0.95
"""Radius of the visible retina, in half image widths."""


@dataclass(frozen=True)
class Paint:
    """A colour, or with `absorbs` the fraction of red, green and blue light that is absorbed."""

    colour: tuple[float, float, float]
    absorbs: bool = False


@dataclass(frozen=True)
class _Distractor:
    """A kind of things that resemble a lesion.

    Attributes:
        name: name of the random numbers.
        most: largest number of them.
        radii: smallest and largest radius, in half image widths.
        softness: half the width of their border.
        stretch: largest elongation.
        paint: their colour.
    """

    name: str
    most: int
    radii: tuple[float, float]
    softness: float
    stretch: float
    paint: Paint


_DISTRACTORS = (
    _Distractor("naevi", 2, (0.06, 0.13), 0.05, 0.5, Paint((0.55, 0.6, 0.5), absorbs=True)),
    _Distractor("reflections", 4, (0.03, 0.1), 0.05, 1.5, Paint((1.0, 0.95, 0.9))),
    _Distractor("drusen", 5, (0.02, 0.05), 0.035, 0.2, Paint((0.98, 0.82, 0.5))),
    _Distractor("dust", 5, (0.02, 0.04), 0.02, 0.2, Paint((0.65, 0.65, 0.6), absorbs=True)),
)


class Retina:
    """The eye without lesions: where the optic disc is, and how everything is lit.

    Args:
        scalar: random numbers of the phantom.
    """

    def __init__(self, scalar: Scalars) -> None:
        self.scalar = scalar
        self.side = 1.0 if scalar("side") < 0.5 else -1.0
        self.disc = (0.48 * self.side, scalar("disc row", -0.12, 0.12))
        self.disc_radius = scalar("disc radius", 0.13, 0.18)

    def background(self, key: int, x: Floats, y: Floats) -> Floats:
        """Return tissue, macula, optic disc and vessels (H, W, 3) in [0, 1]."""
        tone = self.scalar("tone")
        colour = np.array([0.80, 0.42, 0.20]) + tone * np.array([-0.16, -0.12, -0.08])
        tissue, grain = smooth_field(key, "tissue", x.shape, (6, 6)), smooth_field(key, "grain", x.shape, (24, 24))
        image = colour * (1.0 + 0.06 * tissue + 0.03 * grain)[..., None]
        gap = np.sqrt((x + 0.12 * self.side) ** 2 + (y - self.disc[1]) ** 2)
        macula = self.scalar("macula", 0.15, 0.4) * np.exp(-((gap / 0.14) ** 2))
        image *= 1.0 - macula[..., None] * np.array([0.5, 1.0, 1.0])
        gap = np.sqrt((x - self.disc[0]) ** 2 + (y - self.disc[1]) ** 2)
        disc = smooth_step((self.disc_radius - gap) / 0.03)
        cup = smooth_step((0.45 * self.disc_radius - gap) / 0.03)
        image += disc[..., None] * (np.array([0.95, 0.78, 0.46]) + 0.1 * cup[..., None] - image)
        return image * (1.0 - self._vessels(x, y)[..., None] * np.array([0.35, 0.68, 0.6]))

    def light(self, x: Floats, y: Floats) -> Floats:
        """Return the illumination (H, W, 3): exposure, colour, gradient, vignette, and the dark around the retina."""
        right, down = self.scalar.several("slope", 2, -0.18, 0.18)
        square = x * x + y * y
        lit = 1.0 + right * x + down * y - self.scalar("vignette", 0.1, 0.4) * square
        lit *= self.scalar("exposure", 0.8, 1.1) * smooth_step((RADIUS - np.sqrt(square)) / 0.02)
        return lit[..., None] * self.scalar.several("white balance", 3, 0.88, 1.12)

    def _vessels(self, x: Floats, y: Floats) -> Floats:
        """Return how much of each pixel vessels cover, (H, W): arcs around the macula, thinner further out."""
        covered = np.zeros_like(x)
        inwards, down = (self.disc[0] - x) * self.side, y - self.disc[1]
        turns = (0.26, -0.26, 0.14, -0.14, 0.45, -0.45)  # from the direction of the macula
        for turn, (shift, bend, width) in zip(turns, self.scalar.several("vessels", 18).reshape(6, 3), strict=True):
            angle = np.exp(2j * np.pi * (turn + 0.06 * (shift - 0.5)))
            along, across = inwards * angle.real + down * angle.imag, down * angle.real - inwards * angle.imag
            curve = -np.sign(turn) * (0.15 + 0.45 * bend)
            gap = np.abs(across - curve * along * along) / np.sqrt(1.0 + 4.0 * (curve * along) ** 2)
            thickness = (0.012 + 0.016 * width) * np.clip(1.3 - 0.55 * along, 0.4, 1.0)
            covered = np.maximum(covered, smooth_step((thickness - gap) / 0.02) * smooth_step(along / 0.05))
        return covered


def painted(image: Floats, strength: Floats, paint: Paint) -> Floats:
    """Return an image (H, W, 3) with something painted over it, as strongly as stated for each pixel (H, W)."""
    colour = np.array(paint.colour)
    return image + strength[..., None] * (-image * colour if paint.absorbs else colour - image)


def distracted(image: Floats, scalar: Scalars, x: Floats, y: Floats) -> Floats:
    """Return an image with things that resemble lesions."""
    for kind in _DISTRACTORS:
        count = int(scalar(kind.name, 0, kind.most + 1))
        for *place, size, turn, stretch, strength in scalar.several(f"{kind.name} drawn", 6 * count).reshape(-1, 6):
            column, row = 1.5 * (np.array(place) - 0.5)
            turned = (x - column + 1j * (y - row)) * np.exp(2j * np.pi * turn)
            gap = np.sqrt((turned.real / (1.0 + kind.stretch * stretch)) ** 2 + turned.imag**2)
            radius = kind.radii[0] + (kind.radii[1] - kind.radii[0]) * size
            image = painted(image, (0.2 + 0.5 * strength) * smooth_step((radius - gap) / kind.softness), kind.paint)
    return image
