"""Find the retina's disc in a photograph of the fundus, and the square to crop to.

The camera sees the retina through a round aperture, so the photograph shows a bright disc on black, often cut at the
top and bottom. The width of the black margin depends on the camera.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels; pixels at right and bottom are outside. A box may reach beyond its image."""

_BLOCKS = 512
"""The image is averaged in square blocks, at least so many along its longer side: noise and dust vanish in them."""

_BRIGHT = 16
"""An image with hardly any block brighter than this, of 255, is black."""

_EDGE = 0.1
"""Where the disc begins, between the darkest and the brightest percentile of the blocks. In IDRiD, thresholds of 0.1 to
0.2 give the same box within 8 of 4288 pixels."""

_DARK = 0.25
"""Largest brightness of a black margin, as a fraction of the brightest percentile."""

_CHORD = 0.05
"""Rows and columns with fewer bright blocks than this fraction of the longest one are outside: specks do not count, and
a disc loses 0.06 % of its diameter."""

_SMALLEST = 0.25
"""A disc is at least so large, as a fraction of the image's shorter side."""

_FILLED = 0.5
"""Smallest fraction of the box that is bright; a complete disc fills 0.79 of its box, a cut one more."""


def find_disc(image: Image.Image) -> Box | None:
    """Return the box around the retina's disc, or None if the image shows no bright area on black that may be a disc.

    Args:
        image: photograph in RGB or 8-bit grey.
    """
    factor = max(max(image.size) // _BLOCKS, 1)
    blocks = np.asarray(image.convert("L").reduce(factor)).astype(np.float32)
    dark, bright = np.percentile(blocks, (1, 99)).tolist()
    if bright < _BRIGHT or dark > _DARK * bright:
        return None
    lit = blocks > dark + _EDGE * (bright - dark)
    top, bottom = _extent(lit.sum(axis=1))
    left, right = _extent(lit.sum(axis=0))
    shorter = min(blocks.shape)
    if min(bottom - top, right - left) < _SMALLEST * shorter or lit[top:bottom, left:right].mean() < _FILLED:
        return None
    return (left * factor, top * factor, min(right * factor, image.width), min(bottom * factor, image.height))


def square_around(box: Box) -> Box:
    """Return the smallest square with the centre of a box that contains it; it may reach beyond the image."""
    left, top, right, bottom = box
    side = max(right - left, bottom - top)
    left, top = (left + right - side) // 2, (top + bottom - side) // 2
    return left, top, left + side, top + side


def _extent(counts: NDArray[np.int64]) -> tuple[int, int]:
    """Return the ends of the longest run of places with enough bright blocks; text beside the disc is another run."""
    inside = counts >= max(_CHORD * counts.max(), 1)
    edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
    longest = np.argmax(edges[1::2] - edges[::2])
    return int(edges[2 * longest]), int(edges[2 * longest + 1])
