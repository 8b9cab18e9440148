"""Phantoms: procedural pictures of skin with a lesion, whose truth is known because it was there first.

Each picture has two visible causes: how irregular the lesion's border is, b in [0, 1], from a smooth ellipse to lobes
and spicules; and how blotchy its texture is, t in [0, 1], from an even fading to the rim to coarse patches of other
shade and hue. The probability of malignancy is a function of these two only,

    p = 1 / (1 + exp(-SLOPE (b + t - 1))),  stored in thousandths,

and the label is one Bernoulli draw from it. A picture without a lesion has p = 0. Everything else is nuisance,
drawn independently of b and t: skin and lesion colour, contrast, size, place, elongation, illumination, the softness
of the border, hair, blur, sensor noise. The lesion's area hardly depends on b, nor its mean colour and the spread of
its shades on t. The spread of its hues does, as it does in moles, so colours alone tell something (an AUROC of about
0.8), and forms the rest.

The foreground probability V/255 of a pixel, V an 8-bit integer, is a smooth step of its distance to the border, as wide
as the border looks soft. The mask is drawn from it as V > 255 u, where u is a smooth field over the picture: the
triangle wave |2 frac(z) - 1| of z = z0 + f(x, y) with one z0 ~ U[0, 1) a picture and f a smooth random surface.
Frac(z) is uniform at every pixel whatever f is, and so is its triangle wave; hence the marginal of every pixel is
exactly V/255 while the drawn border wanders smoothly.

Sample i of a split depends on (seed, split, i) and the size only. Arithmetic is in float64 and rounded to integers once
at the end, so that platforms agree.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..keyed import keyed_bits, keyed_uniform, word

Floats = NDArray[np.float64]

SLOPE = 4.2
"""How fast p rises with border and texture: the oracle's AUROC is near 0.93."""

NO_LESION = 0.08
"""Share of pictures without a lesion."""

VARIEGATION = 0.35
"""How much patches differ in hue. Without it, the class is learnt after 15000 pictures instead of 4000."""

HAIRS = 5
"""Largest number of hairs."""

BLURS = (0.0, 0.4, 0.6, 0.8, 1.0)
"""Standard deviations of the blur, in pixels of a 96-pixel picture."""

_SCALARS = (
    *("lesion", "cause", "balance", "label", "mask", "column", "row", "radius", "lobes", "elongation", "softness"),
    *("tone", "strength", "hairs", "hair thickness", "exposure", "vignette", "blur"),
)
_SCALAR_WORDS = np.array([word(name) for name in _SCALARS], dtype=np.uint64)


@dataclass(frozen=True)
class Phantom:
    """One picture and its truth.

    Attributes:
        image: (H, W, 3) uint8.
        mask: (H, W) uint8, 0 background and 1 lesion, drawn from `foreground`.
        label: 0 benign or 1 malignant, drawn from `malignant`.
        malignant: probability of label 1, in thousandths.
        foreground: (H, W) uint8, 255 times the probability of lesion.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    label: int
    malignant: int
    foreground: NDArray[np.uint8]


def draw(seed: int, split: str, number: int, size: int) -> Phantom:
    """Draw one phantom of size x size pixels; a pure function of its arguments."""
    key = int(keyed_bits("phantom", seed, split, number))
    scalar = _Scalars(key)
    x, y = _coordinates(size)
    has_lesion = scalar("lesion") >= NO_LESION
    cause = scalar("cause")
    contrast = 0.3 * (scalar("balance") - 0.5)
    border, texture = np.clip([cause + contrast, cause - contrast], 0.0, 1.0)

    depth, inside = _lesion_shape(scalar, x, y, float(border))
    softness = 0.02 + 0.06 * scalar("softness") ** 2
    ramp = np.clip(0.5 + 0.5 * depth / softness, 0.0, 1.0)
    matte = ramp * ramp * (3.0 - 2.0 * ramp) * has_lesion
    malignant = int(np.rint(1000.0 / (1.0 + np.exp(-SLOPE * (border + texture - 1.0))))) if has_lesion else 0

    image = _skin(scalar, key, size, x, y)
    image -= _pigment(scalar, key, size, inside, float(texture)) * (matte[..., None] * image)
    image *= _hair(scalar, x, y)[..., None]
    image *= _illumination(scalar, x, y)[..., None]
    image = _blur(image, BLURS[int(scalar("blur") * len(BLURS))])
    image += 0.02 * (keyed_uniform(key, "noise", np.arange(image.size)).reshape(image.shape) - 0.5)

    foreground = np.rint(255.0 * matte).astype(np.uint8)
    wave = 2.0 * np.mod(scalar("mask") + 0.25 * _surface(key, "mask", size, 4), 1.0) - 1.0
    return Phantom(
        image=np.rint(255.0 * np.clip(image, 0.0, 1.0)).astype(np.uint8),
        mask=(foreground > 255.0 * np.abs(wave)).astype(np.uint8),
        label=int(1000.0 * scalar("label") < malignant),
        malignant=malignant,
        foreground=foreground,
    )


class _Scalars:
    """Uniform numbers of one picture, by name."""

    def __init__(self, key: int) -> None:
        self.key = key
        # All at once: one call of the hash costs about as much for thirty words as for one.
        self.values = dict(zip(_SCALARS, keyed_uniform(key, _SCALAR_WORDS).tolist(), strict=True))

    def __call__(self, name: str, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * self.values[name]

    def several(self, name: str, count: int, low: float = 0.0, high: float = 1.0) -> Floats:
        return low + (high - low) * keyed_uniform(self.key, name, np.arange(count))


def _lesion_shape(scalar: _Scalars, x: Floats, y: Floats, border: float) -> tuple[Floats, Floats]:
    """Depth under the border (positive inside) in half picture widths, and the radius relative to the border's."""
    x = x - scalar("column", -0.25, 0.25)
    y = y - scalar("row", -0.25, 0.25)
    radius = np.sqrt(x * x + y * y) + 1e-9
    wave = (x + 1j * y) / radius
    # Elongation and a slow asymmetry for every lesion; lobes and spicules by `border`. A unit vector to the power k
    # goes round k times, so no angle is needed.
    outline, slope = np.zeros_like(radius), np.zeros_like(radius)
    turns = np.exp(2j * np.pi * scalar.several("turns", 16))
    weights = scalar.several("weights", 16, 0.4, 1.0)
    lobes = 4 + int(scalar("lobes", 0.0, 3.0))
    amplitude = 0.01 + 0.34 * border
    parts = [(2, scalar("elongation", 0.02, 0.16)), (3, 0.05 * weights[0])]
    parts += [(k, amplitude * weights[k] * share) for k, share in ((lobes, 0.55), (lobes + 3, 0.4), (lobes + 8, 0.3))]
    power, reached, energy = wave, 1, 0.0
    for k, size in parts:
        for _ in range(reached, k):
            power = power * wave
        reached = k
        turned = size * turns[k] * power
        outline += turned.real
        slope -= k * turned.imag
        energy += 0.5 * size * size
    # The mean of (1 + outline)^2 is 1 + energy: dividing by its root keeps the area whatever the border.
    mean_radius = scalar("radius", 0.36, 0.60) / np.sqrt(1.0 + energy)
    edge = mean_radius * np.maximum(1.0 + outline, 0.2)
    # The radial gap over this root is, to first order, the distance at right angles to the border.
    steepness = np.sqrt(1.0 + (slope / np.maximum(1.0 + outline, 0.2)) ** 2)
    return (edge - radius) / steepness, radius / edge


def _skin(scalar: _Scalars, key: int, size: int, x: Floats, y: Floats) -> Floats:
    """Bare skin (H, W, 3) in [0, 1]: one tone a picture, patches, pores."""
    tone = scalar("tone")
    light, dark = np.array([0.93, 0.76, 0.68]), np.array([0.62, 0.44, 0.34])
    colour = light + tone * (dark - light) + scalar.several("tint", 3, -0.04, 0.04)
    field = 1.0 + 0.05 * _surface(key, "skin", size, 6) + 0.035 * _surface(key, "pores", size, 40)
    return colour * field[..., None]


def _pigment(scalar: _Scalars, key: int, size: int, inside: Floats, texture: float) -> Floats:
    """What share of the skin's light the lesion takes, (H, W, 3)."""
    # Both have about the same mean and spread over the lesion, so a histogram of shades hardly tells them apart.
    even = 1.4 - 2.8 * np.minimum(inside, 1.1) ** 2
    coarse = np.clip(1.3 * _surface(key, "blotches", size, 12), -1.4, 1.4)
    field = np.sqrt(1.0 - texture) * even + np.sqrt(texture) * coarse + 0.25 * _surface(key, "grain", size, 36)
    strength = scalar("strength", 0.38, 0.62) * (1.0 + 0.38 * field)
    # Pigment takes more blue than red, to a degree that varies; dark patches are bluish, light ones reddish.
    colour = np.array([0.78, 1.02, 1.16]) + scalar.several("lesion tint", 3, -0.09, 0.09)
    hue = VARIEGATION * np.sqrt(texture) * coarse
    colour = colour + hue[..., None] * np.array([1.0, 0.0, -1.0])
    return np.clip(strength[..., None] * colour, 0.0, 0.93)


def _hair(scalar: _Scalars, x: Floats, y: Floats) -> Floats:
    """Transmission of dark, slightly bent hairs, (H, W)."""
    count = max(0, int(scalar("hairs", -HAIRS, HAIRS + 1)))
    through = np.ones_like(x)
    thickness = scalar("hair thickness", 0.012, 0.024)
    for turn, offset, bend in scalar.several("hair", 3 * count).reshape(count, 3):
        angle = np.exp(2j * np.pi * turn)
        along, across = x * angle.real + y * angle.imag, y * angle.real - x * angle.imag
        gap = np.abs(across - 1.6 * (offset - 0.5) - 0.7 * (bend - 0.5) * along * along)
        through = np.minimum(through, 0.3 + 0.7 * np.clip(gap / thickness - 0.3, 0.0, 1.0))
    return through


def _illumination(scalar: _Scalars, x: Floats, y: Floats) -> Floats:
    """Exposure, a slope and a vignette, (H, W)."""
    right, down = scalar.several("slope", 2, -0.10, 0.10)
    return scalar("exposure", 0.82, 1.05) * (
        1.0 + right * x + down * y - scalar("vignette", 0.0, 0.16) * (x * x + y * y)
    )


def _surface(key: int, name: str, size: int, cells: int) -> Floats:
    """A smooth random field (H, W) of mean 0 and standard deviation about 1, with about this many bumps a side."""
    grid = keyed_uniform(key, name, np.arange((cells + 3) ** 2)).reshape(cells + 3, cells + 3) - 0.5
    first, weights = _spline(size, cells)
    # Four taps an axis by hand instead of a matrix product: as fast, and no threads of BLAS inside worker processes.
    rows, field = np.zeros((size, cells + 3)), np.zeros((size, size))
    for tap in range(4):
        rows += weights[:, tap, None] * grid[first + tap]
    for tap in range(4):
        field += weights[:, tap] * rows[:, first + tap]
    return field


@lru_cache(maxsize=32)
def _spline(size: int, cells: int) -> tuple[NDArray[np.int64], Floats]:
    """Cubic B-spline on cells + 3 knots: the first of each pixel's four knots, (size,), and their weights (size, 4)."""
    place = (np.arange(size) + 0.5) / size * cells
    first = np.floor(place).astype(np.int64)
    gap = np.abs((place - first)[:, None] + 1.0 - np.arange(4))
    near = 2.0 / 3.0 - gap**2 + gap**3 / 2.0
    far = np.maximum(2.0 - gap, 0.0) ** 3 / 6.0
    weights = np.where(gap < 1.0, near, far)
    # The variance of a uniform number is 1/12; each of the two axes gets half of the correction to 1.
    return first, weights * (12.0 / np.mean(np.sum(weights**2, axis=1)) ** 2) ** 0.25


@lru_cache(maxsize=16)
def _coordinates(size: int) -> tuple[Floats, Floats]:
    """Columns and rows of the pixel centres, (H, W) each, from -1 to 1."""
    axis = (2.0 * np.arange(size) + 1.0) / size - 1.0
    x, y = np.meshgrid(axis, axis)
    return x, y


def _blur(image: Floats, deviation: float) -> Floats:
    """Gaussian blur of an image (H, W, 3), edges repeated; the deviation is in pixels of a 96-pixel picture."""
    deviation *= len(image) / 96.0
    reach = int(np.ceil(2.5 * deviation))
    if reach == 0:
        return image
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        edges = [(reach, reach) if axis == other else (0, 0) for other in range(3)]
        padded = np.swapaxes(np.pad(image, edges, mode="edge"), 0, axis)
        image = np.zeros_like(image)
        for tap, weight in enumerate(weights):
            image += np.swapaxes(weight * padded[tap : tap + len(image)], 0, axis)
    return image
