"""Phantom retinas: synthetic fundus photographs with four kinds of lesions that overlap, and a grade by their kinds.

The grade follows, in the spirit of the International Clinical Diabetic Retinopathy scale, from the kinds of lesions
and from the number of haemorrhages, of which there are either few (1 to 3) or many (`MANY` to 9):

    0 no_dr          no lesion
    1 mild           microaneurysms only
    2 moderate       a few haemorrhages, hard exudates or both; with or without microaneurysms
    3 severe         soft exudates or many haemorrhages, but not both
    4 proliferative  soft exudates and many haemorrhages

Of every five consecutive samples of a split, each has another grade. The size of lesions varies between images, and
there are more hard exudates in grade 2 than in worse ones, so the area of all lesions alone does not decide the grade.

Microaneurysms are dark red dots of a few pixels at size 64; haemorrhages are larger, dark, with an irregular
border; hard exudates are clusters of sharp, bright yellow specks; soft exudates are larger, pale and blurred. They
gather around a few places of the retina, where they cover one another: a mask includes what lies beneath. The contrast
of every lesion is drawn, down to the limit of visibility. Other things resemble them: crossings of vessels and dust are
like microaneurysms, naevi and the macula like haemorrhages, drusen and the optic disc like hard exudates, reflections
like soft exudates.

Sample i of a split depends on (seed, split, i) and the size only. All arithmetic is in float64 and rounded to integers
once at the end, so that platforms agree.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..keyed import keyed_bits, keyed_permutation, keyed_uniform
from .grade_tables import GRADES
from .phantom_eyes import SCALARS, Paint, Retina, distracted, painted
from .phantom_fields import Floats, Scalars, coordinates, smooth_step

LESIONS = ("microaneurysms", "haemorrhages", "hard_exudates", "soft_exudates")

MANY = 6
"""Number of haemorrhages from which they are many."""

SPECKS = 12
"""Largest number of specks in a cluster of hard exudates."""

_SCALARS = (
    *("microaneurysms", "haemorrhages", "hard_exudates", "soft_exudates", "which", "more", "foci", "extent"),
    *("noise", *SCALARS),
)


@dataclass(frozen=True)
class PhantomRetina:
    """A photograph with its annotations.

    Attributes:
        image: (H, W, 3), uint8.
        masks: (4, H, W), uint8, 0 or 1, in the order of `LESIONS`.
        counts: number of lesions of each kind; for hard exudates, of clusters.
        grade: 0 to 4, see `grade_of`.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    counts: Mapping[str, int]
    grade: int


@dataclass(frozen=True)
class _Kind:
    """A kind of lesions.

    Attributes:
        spread: largest distance along each axis from the place where it gathers, in half image widths.
        contrast: contrast of the faintest and of the clearest.
        paint: its colour.
    """

    spread: float
    contrast: tuple[float, float]
    paint: Paint


_KINDS = {
    "soft_exudates": _Kind(0.25, (0.12, 0.85), Paint((0.95, 0.8, 0.6))),
    "haemorrhages": _Kind(0.35, (0.12, 0.85), Paint((0.45, 0.75, 0.6), absorbs=True)),
    "hard_exudates": _Kind(0.2, (0.12, 0.85), Paint((1.0, 0.88, 0.42))),
    "microaneurysms": _Kind(0.35, (0.4, 1.0), Paint((0.35, 0.8, 0.7), absorbs=True)),
}
"""The kinds of lesions, the lowest first."""


@dataclass(frozen=True)
class _Lesion:
    """A lesion: its kind, and for each pixel how much of it the lesion covers."""

    kind: str
    matte: Floats
    contrast: float


def grade_of(counts: Mapping[str, int]) -> int:
    """Return the grade that follows from the number of lesions of each kind."""
    worst = (counts["soft_exudates"] > 0) + (counts["haemorrhages"] >= MANY)
    if worst:
        return 2 + worst
    if counts["haemorrhages"] or counts["hard_exudates"]:
        return 2
    return int(counts["microaneurysms"] > 0)


def draw(seed: int, split: str, number: int, size: int) -> PhantomRetina:
    """Generate a phantom of size x size pixels; a pure function of its arguments."""
    wanted = keyed_permutation(len(GRADES), "phantom retina grades", seed, split, number // len(GRADES))
    key = int(keyed_bits("phantom retina", seed, split, number))
    scalar = Scalars(key, _SCALARS)
    counts = _counts(scalar, int(wanted[number % len(GRADES)]))
    x, y = coordinates(size)
    retina = Retina(scalar)

    image = retina.background(key, x, y)
    lesions = list(_lesions(scalar, key, counts, retina, x, y))
    for lesion in lesions:
        image = painted(image, lesion.matte * lesion.contrast, _KINDS[lesion.kind].paint)
    image = distracted(image, scalar, x, y)
    image *= retina.light(x, y)
    noise = keyed_uniform(key, "noise", np.arange(2 * image.size)).reshape(2, *image.shape).sum(axis=0) - 1.0
    image += scalar("noise", 0.025, 0.05) * noise

    masks = np.zeros((len(LESIONS), size, size), np.uint8)
    for lesion in lesions:
        # The dot on the corner of four pixels covers none of them by half.
        masks[LESIONS.index(lesion.kind)] |= (lesion.matte >= min(0.5, float(lesion.matte.max()))).astype(np.uint8)
    return PhantomRetina(np.rint(255.0 * np.clip(image, 0.0, 1.0)).astype(np.uint8), masks, counts, grade_of(counts))


def _counts(scalar: Scalars, grade: int) -> dict[str, int]:
    """Draw the number of lesions of each kind for a grade."""
    which, more = scalar("which"), scalar("more") < 0.5
    dots = int(scalar("microaneurysms", 0, 10))
    few, many = int(scalar("haemorrhages", 1, 4)), int(scalar("haemorrhages", MANY, 10))
    clusters, soft = int(scalar("hard_exudates", 1, 3)), int(scalar("soft_exudates", 1, 3))
    if grade == 0:
        found = (0, 0, 0, 0)
    elif grade == 1:
        found = (1 + dots, 0, 0, 0)
    elif grade == 2:
        found = (dots, few * (which < 0.6), 2 * clusters * (which >= 0.3), 0)
    elif grade == 3 and which < 0.5:
        found = (dots, few * (which < 0.25), clusters * more, soft)
    else:
        found = (dots, many, clusters * more, soft * (grade == 4))
    return dict(zip(LESIONS, found, strict=True))


def _lesions(
    scalar: Scalars, key: int, counts: Mapping[str, int], retina: Retina, x: Floats, y: Floats
) -> Iterator[_Lesion]:
    """Yield the lesions, the lowest first; most of them are rather faint."""
    extent = scalar("extent", 0.7, 1.3)
    # Many haemorrhages are smaller, so that their area does not give away their number.
    extents = dict.fromkeys(LESIONS, extent) | {
        "haemorrhages": extent * (0.65 if counts["haemorrhages"] >= MANY else 1.2)
    }
    foci = scalar.several("places", 6, -0.6, 0.6).reshape(3, 2)[: int(scalar("foci", 1, 4))]
    for name, kind in _KINDS.items():
        faintest, clearest = kind.contrast
        for number, drawn in enumerate(scalar.several(f"{name} drawn", 6 * counts[name]).reshape(-1, 6)):
            place = _inside(retina, *(foci[number % len(foci)] + kind.spread * (2.0 * drawn[:2] - 1.0)))
            parts = scalar.several(f"{name} {number}", 3 * SPECKS).reshape(SPECKS, 3)
            matte = _matte(name, extents[name], drawn[3:], parts, x - place[0], y - place[1])
            yield _Lesion(name, matte, faintest + (clearest - faintest) * drawn[2] ** 1.3)


def _inside(retina: Retina, column: float, row: float) -> tuple[float, float]:
    """Return a place on the retina and off its optic disc: pulled in, or mirrored."""
    distance = np.sqrt(column * column + row * row)
    shrunk = min(1.0, 0.78 / (distance + 1e-9))
    column, row = column * shrunk, row * shrunk
    near = (column - retina.disc[0]) ** 2 + (row - retina.disc[1]) ** 2 < (retina.disc_radius + 0.1) ** 2
    return (-column, row) if near else (column, row)


def _matte(kind: str, extent: float, drawn: Floats, parts: Floats, x: Floats, y: Floats) -> Floats:
    """Return how much of each pixel a lesion covers, (H, W) in [0, 1].

    Args:
        kind: its kind.
        extent: factor of its size.
        drawn: (3,) random numbers for its size, direction and elongation.
        parts: (SPECKS, 3) random numbers for its parts.
        x: columns of the pixels relative to its middle.
        y: rows of the pixels.
    """
    size, turn, shape = drawn
    if kind == "microaneurysms":
        return smooth_step((extent * (0.028 + 0.018 * size) - np.sqrt(x * x + y * y)) / 0.02)
    if kind == "hard_exudates":
        covered = np.zeros_like(x)
        for right, down, radius in parts[: 4 + int((SPECKS - 3) * size)]:
            gap = np.sqrt((x - 0.36 * extent * (right - 0.5)) ** 2 + (y - 0.36 * extent * (down - 0.5)) ** 2)
            covered = np.maximum(covered, smooth_step((0.024 + 0.024 * radius - gap) / 0.012))
        return covered
    turned = (x + 1j * y) * np.exp(2j * np.pi * turn)
    right, down = turned.real * (1.0 + 0.4 * shape), turned.imag / (1.0 + 0.4 * shape)
    gap = np.sqrt(right * right + down * down) + 1e-9
    if kind == "soft_exudates":
        return smooth_step((extent * (0.075 + 0.055 * size) - gap) / 0.07)
    wave = (right + 1j * down) / gap
    lobes = zip((2, 3, 4), 0.36 * (parts[:3, 0] - 0.5), np.exp(2j * np.pi * parts[:3, 1]), strict=True)
    outline = 1.0 + sum(height * (wave**k * direction).real for k, height, direction in lobes)
    return smooth_step((extent * (0.055 + 0.07 * size) * outline - gap) / 0.02)
