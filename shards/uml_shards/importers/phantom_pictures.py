"""Phantoms: synthetic images of skin lesions, generated from known class and mask probabilities.

Two visible causes determine the class. The irregularity of the lesion's border, b in [0, 1], ranges from a smooth
ellipse to lobes and spicules. The blotchiness of its texture, t in [0, 1], ranges from an even fading towards the rim
to coarse patches of different shade and hue. The probability of malignancy depends on these two only,

    p = 1 / (1 + exp(-SLOPE (b + t - 1))),  stored in thousandths,

and the label is one Bernoulli draw from it. An image without a lesion has p = 0. All other properties are nuisance
variables, drawn independently of b and t: skin and lesion colour, contrast, size, position, elongation, illumination,
softness of the border, hair, blur, sensor noise. The lesion's area hardly depends on b, and its mean colour and the
spread of its shades hardly depend on t. The spread of its hues does depend on t, as in real moles, so colours alone
give an AUROC of about 0.8. The rest of the information is in the shapes.

The foreground probability V/255 of a pixel, with V an 8-bit integer, is a smooth step of its distance to the border.
The step is as wide as the border looks soft. The mask is drawn as V > 255 u, where u is a smooth field over the image:
the triangle wave |2 frac(z) - 1| of z = z0 + f(x, y), with one z0 ~ U[0, 1) per image and a smooth random surface f.
frac(z) is uniform at every pixel for any f, and so is its triangle wave. The marginal probability of every pixel is
therefore exactly V/255, while the drawn border varies smoothly.

Sample i of a split depends on (seed, split, i) and the size only. All arithmetic is in float64 and rounded to integers
once at the end, so that platforms agree.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..keyed import keyed_bits, keyed_uniform
from .phantom_fields import Floats, Scalars, coordinates, smooth_field

SLOPE = 4.2
"""Slope of the logistic function p of border and texture; the oracle's AUROC is near 0.93."""

NO_LESION = 0.08
"""Fraction of images without a lesion."""

VARIEGATION = 0.35
"""Difference in hue between patches. Without it, the class is learnt after 15000 images instead of 4000."""

HAIRS = 5
"""Largest number of hairs."""

BLURS = (0.0, 0.4, 0.6, 0.8, 1.0)
"""Standard deviations of the blur, in pixels of a 96-pixel image."""

_SCALARS = (
    *("lesion", "cause", "balance", "label", "mask", "column", "row", "radius", "lobes", "elongation", "softness"),
    *("tone", "strength", "hairs", "hair thickness", "exposure", "vignette", "blur"),
)


@dataclass(frozen=True)
class Phantom:
    """An image with its annotations and their true probabilities.

    Attributes:
        image: image (H, W, 3), uint8.
        mask: mask (H, W), uint8, 0 background and 1 lesion, drawn from `foreground`.
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
    """Generate a phantom of size x size pixels; a pure function of its arguments."""
    key = int(keyed_bits("phantom", seed, split, number))
    scalar = Scalars(key, _SCALARS)
    x, y = coordinates(size)
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


def _lesion_shape(scalar: Scalars, x: Floats, y: Floats, border: float) -> tuple[Floats, Floats]:
    """Return the depth inside the border (positive inside), in half image widths, and the radius relative to it."""
    x = x - scalar("column", -0.25, 0.25)
    y = y - scalar("row", -0.25, 0.25)
    radius = np.sqrt(x * x + y * y) + 1e-9
    wave = (x + 1j * y) / radius
    # Every lesion has an elongation and a slow asymmetry; `border` adds lobes and spicules. The k-th power of a unit
    # vector rotates k times, so no angle is needed.
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
    # The mean of (1 + outline)^2 is 1 + energy; dividing by its root keeps the area independent of the border.
    mean_radius = scalar("radius", 0.36, 0.60) / np.sqrt(1.0 + energy)
    edge = mean_radius * np.maximum(1.0 + outline, 0.2)
    # The radial gap divided by this root is, to first order, the perpendicular distance to the border.
    steepness = np.sqrt(1.0 + (slope / np.maximum(1.0 + outline, 0.2)) ** 2)
    return (edge - radius) / steepness, radius / edge


def _skin(scalar: Scalars, key: int, size: int, x: Floats, y: Floats) -> Floats:
    """Return skin without lesion (H, W, 3) in [0, 1]: one tone per image, patches, pores."""
    tone = scalar("tone")
    light, dark = np.array([0.93, 0.76, 0.68]), np.array([0.62, 0.44, 0.34])
    colour = light + tone * (dark - light) + scalar.several("tint", 3, -0.04, 0.04)
    field = 1.0 + 0.05 * _surface(key, "skin", size, 6) + 0.035 * _surface(key, "pores", size, 40)
    return colour * field[..., None]


def _pigment(scalar: Scalars, key: int, size: int, inside: Floats, texture: float) -> Floats:
    """Return the fraction of the skin's light that the lesion absorbs, (H, W, 3)."""
    # Both textures have about the same mean and spread over the lesion, so a histogram of shades hardly separates them.
    even = 1.4 - 2.8 * np.minimum(inside, 1.1) ** 2
    coarse = np.clip(1.3 * _surface(key, "blotches", size, 12), -1.4, 1.4)
    field = np.sqrt(1.0 - texture) * even + np.sqrt(texture) * coarse + 0.25 * _surface(key, "grain", size, 36)
    strength = scalar("strength", 0.38, 0.62) * (1.0 + 0.38 * field)
    # Pigment absorbs more blue than red, to a varying degree; dark patches are bluish, light ones reddish.
    colour = np.array([0.78, 1.02, 1.16]) + scalar.several("lesion tint", 3, -0.09, 0.09)
    hue = VARIEGATION * np.sqrt(texture) * coarse
    colour = colour + hue[..., None] * np.array([1.0, 0.0, -1.0])
    return np.clip(strength[..., None] * colour, 0.0, 0.93)


def _hair(scalar: Scalars, x: Floats, y: Floats) -> Floats:
    """Return the transmission of dark, slightly bent hairs, (H, W)."""
    count = max(0, int(scalar("hairs", -HAIRS, HAIRS + 1)))
    through = np.ones_like(x)
    thickness = scalar("hair thickness", 0.012, 0.024)
    for turn, offset, bend in scalar.several("hair", 3 * count).reshape(count, 3):
        angle = np.exp(2j * np.pi * turn)
        along, across = x * angle.real + y * angle.imag, y * angle.real - x * angle.imag
        gap = np.abs(across - 1.6 * (offset - 0.5) - 0.7 * (bend - 0.5) * along * along)
        through = np.minimum(through, 0.3 + 0.7 * np.clip(gap / thickness - 0.3, 0.0, 1.0))
    return through


def _illumination(scalar: Scalars, x: Floats, y: Floats) -> Floats:
    """Return the illumination (H, W): exposure, a linear gradient and a vignette."""
    right, down = scalar.several("slope", 2, -0.10, 0.10)
    return scalar("exposure", 0.82, 1.05) * (
        1.0 + right * x + down * y - scalar("vignette", 0.0, 0.16) * (x * x + y * y)
    )


def _surface(key: int, name: str, size: int, cells: int) -> Floats:
    """Return a smooth random field (H, W) with mean 0, standard deviation about 1, and about `cells` bumps per side."""
    return smooth_field(key, name, (size, size), (cells, cells))


def _blur(image: Floats, deviation: float) -> Floats:
    """Blur an image (H, W, 3) with a Gaussian, edges repeated; the deviation is in pixels of a 96-pixel image."""
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
