"""Tests of deciding by its values what a binary mask marks."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from uml_shards import ShardError
from uml_shards.sources.binary import foreground

PATH = Path("mask.png")
ROWS, COLUMNS = np.mgrid[:96, :96]


def disc(radius: float) -> np.ndarray:
    return ((ROWS - 48) ** 2 + (COLUMNS - 48) ** 2 < radius**2).astype(np.uint8)


def jpeg(mask: np.ndarray, quality: int) -> np.ndarray:
    data = BytesIO()
    Image.fromarray(mask * np.uint8(255)).save(data, "JPEG", quality=quality)
    return np.asarray(Image.open(data))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int64, np.float32])
@pytest.mark.parametrize("value", [1, 128, 255])
def test_two_values_are_taken_exactly(dtype, value):
    mask, blurred = foreground((disc(9) * value).astype(dtype), PATH)
    np.testing.assert_array_equal(mask, disc(9))
    assert (mask.dtype, blurred) == (np.uint8, False)


@pytest.mark.parametrize("value", [0, 1, 255])
def test_mask_of_a_single_value(value):
    mask, blurred = foreground(np.full((4, 4), value, np.uint8), PATH)
    assert ((mask == (value > 0)).all(), blurred) == (True, False)


@given(radius=st.floats(3, 40), quality=st.integers(60, 95))
@settings(max_examples=40, deadline=None)
def test_jpeg_noise_is_cut_without_changing_the_lesion(radius, quality):
    values = jpeg(disc(radius), quality)
    mask, blurred = foreground(values, PATH)
    np.testing.assert_array_equal(mask, disc(radius))
    assert blurred == (len(np.unique(values)) > 2)


def test_interpolated_border_of_a_large_lesion_is_cut_at_half():
    drawn = Image.fromarray(disc(40) * np.uint8(255)).resize((64, 64), Image.Resampling.BILINEAR)
    mask, blurred = foreground(np.asarray(drawn), PATH)
    np.testing.assert_array_equal(mask, np.asarray(drawn) >= 128)
    assert blurred


def test_blurred_values_of_8_bits_in_16_bits_keep_their_scale():
    values = jpeg(disc(20), 75).astype(np.uint16)
    np.testing.assert_array_equal(foreground(values, PATH)[0], disc(20))


def test_masks_resampled_as_floats_are_cut_at_half():
    values = disc(20) * np.float32(0.9998) + np.float32(1e-4)
    mask, blurred = foreground(values, PATH)
    np.testing.assert_array_equal(mask, disc(20))
    assert blurred


def soft() -> np.ndarray:
    return sum(disc(radius).astype(np.uint8) * 63 for radius in (10, 15, 20, 25))


AMBIGUOUS = {
    "class numbers": disc(20) + disc(10),
    "the class number 2 alone": disc(20) * 2,
    "labels 1, 2 and 4": disc(30) + disc(20) + disc(10) * 2,
    "1 and 2 without background": disc(20) + 1,
    "class numbers and 255 for ignore": np.where(disc(30) == 0, 255, disc(10) + disc(5)),
    "class 1 and 255 for ignore": np.where(disc(30) == 0, 255, disc(10)),
    "three grey levels": disc(20) * 128 + disc(10) * 127,
    "soft map of four observers": soft(),
    "a scan": np.random.default_rng(0).integers(0, 2000, (96, 96)),
    "a picture": np.random.default_rng(0).integers(0, 256, (96, 96)),
    "noise without foreground": np.random.default_rng(0).integers(0, 8, (96, 96)),
    "wide border": np.clip(255 / (1 + np.exp((np.hypot(ROWS - 48, COLUMNS - 48) - 20) / 4)), 0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("what", AMBIGUOUS)
def test_values_with_two_readings_are_refused_with_both(what):
    with pytest.raises(ShardError, match=r"mask\.png: a binary mask must have the values 0 and 1, or 0 and ") as caught:
        foreground(AMBIGUOUS[what], PATH)
    for reading in ("mask_values=classes", "mask_threshold=0.5", "mask_values=nonzero"):
        assert reading in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_negative_values_are_refused():
    with pytest.raises(ShardError, match="negative values, -1 to 1: if it is an image, remove it; if they mark pixels"):
        foreground(disc(20).astype(np.int16) - (disc(30) == 0), PATH)


def test_threshold_of_a_soft_map():
    mask, blurred = foreground(soft(), PATH, threshold=0.7)
    np.testing.assert_array_equal(mask, disc(15))
    assert not blurred
