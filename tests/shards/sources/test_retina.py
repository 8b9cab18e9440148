"""Tests of finding the retina's disc in a photograph of the fundus."""

import numpy as np
import pytest
from PIL import Image

from uml_shards.sources.retina import find_disc, square_around


def disc(
    shape: tuple[int, int] = (120, 200),
    centre: tuple[int, int] = (60, 90),
    radius: int = 50,
    back: int = 0,
    lit: int = 160,
) -> np.ndarray:
    """Return a grey disc, one step darker at its left than at its right, on a background."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    inside = np.hypot(rows + 0.5 - centre[0], columns + 0.5 - centre[1]) < radius
    shade = np.linspace(0.5 * lit, lit, shape[1])[None]
    return np.where(inside, shade, back).astype(np.uint8)


def found(grey: np.ndarray) -> tuple[int, int, int, int] | None:
    return find_disc(Image.fromarray(np.stack([grey] * 3, axis=2)))


@pytest.mark.parametrize(
    ("grey", "box"),
    [
        pytest.param(disc(), (40, 10, 140, 110), id="complete"),
        pytest.param(disc(radius=80), (10, 0, 170, 120), id="cut at top and bottom"),
        pytest.param(disc(centre=(60, 30)), (0, 10, 80, 110), id="cut at the left"),
        pytest.param(disc(lit=40), (40, 10, 140, 110), id="dim"),
        pytest.param(disc(back=14), (40, 10, 140, 110), id="on a dark grey"),
        pytest.param(disc((600, 1000), (300, 450), 250), (200, 50, 700, 550), id="larger than the blocks"),
    ],
)
def test_the_box_touches_the_disc(grey, box):
    block = max(max(grey.shape) // 512, 1)
    where = found(grey)
    assert where is not None
    assert np.abs(np.subtract(where, box)).max() <= block
    assert find_disc(Image.fromarray(grey)) == where


def test_text_and_specks_beside_the_disc_do_not_widen_the_box():
    grey = disc()
    grey[2:7, 2:36:2] = 250
    grey[115, 190] = 255
    assert found(grey) == found(disc())


def test_noise_in_the_margin_does_not_widen_the_box():
    noise = np.random.default_rng(0).integers(0, 12, (120, 200))
    assert found((disc() + noise).clip(0, 255).astype(np.uint8)) == found(disc())


@pytest.mark.parametrize(
    "grey",
    [
        pytest.param(np.zeros((60, 90), np.uint8), id="black"),
        pytest.param(np.full((60, 90), 120, np.uint8), id="one colour"),
        pytest.param((np.indices((60, 90)).sum(0) % 2 * 6).astype(np.uint8), id="nearly black"),
        pytest.param(255 - disc(), id="a dark disc on white"),
        pytest.param(disc(radius=9), id="a spot"),
        pytest.param((np.indices((60, 90)).sum(0) % 9 == 0).astype(np.uint8) * 200, id="lines"),
    ],
)
def test_an_image_without_a_disc_has_no_box(grey):
    assert found(grey) is None


def test_the_square_has_the_centre_of_the_box_and_may_reach_beyond_the_image():
    assert square_around((10, 0, 170, 120)) == (10, -20, 170, 140)
    assert square_around((0, 10, 80, 110)) == (-10, 10, 90, 110)
    assert square_around((0, 0, 5, 5)) == (0, 0, 5, 5)
