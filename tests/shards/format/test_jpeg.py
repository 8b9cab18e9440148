"""Tests that simplejpeg changes no result: pixels and errors equal those of Pillow alone."""

from functools import partial
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from uml_shards import ShardError
from uml_shards.format import jpeg
from uml_shards.format.picture import decode_image

simplejpeg = pytest.importorskip("simplejpeg")

SUBSAMPLINGS = ("444", "422", "420", "440", "411", "Gray")


def with_pillow(image: np.ndarray, **options: object) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[2] == 1 else image).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@st.composite
def images(draw, channels=(1, 3)):
    """Mixtures of noise and a ramp, from smooth to pure noise."""
    height, width, depth = draw(st.integers(1, 70)), draw(st.integers(1, 70)), draw(st.sampled_from(channels))
    noise = np.random.default_rng(draw(st.integers(0, 2**32))).integers(0, 256, (height, width, depth))
    share = draw(st.sampled_from((0, 0.1, 1)))
    ramp = np.linspace(0, 255, width)[None, :, None]
    return (share * noise + (1 - share) * ramp).astype(np.uint8)


@st.composite
def files(draw):
    """A valid JPEG of any supported kind."""
    quality = draw(st.integers(1, 100))
    if draw(st.booleans()):
        image = draw(images())
        colours, subsampling = ("GRAY", "Gray") if image.shape[2] == 1 else ("RGB", draw(st.sampled_from(SUBSAMPLINGS)))
        return simplejpeg.encode_jpeg(image, quality, colours, subsampling)
    restart = draw(st.sampled_from((0, 3)))
    options: dict[str, object] = {"progressive": draw(st.booleans()), "restart_marker_blocks": restart}
    image = draw(images())
    if image.shape[2] == 3:
        kind = draw(st.sampled_from(({"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"keep_rgb": True})))
        options |= kind
    return with_pillow(image, quality=quality, **options)


def outcome(data: bytes) -> np.ndarray | str:
    try:
        return decode_image(data, "jpg")
    except ShardError as error:
        return str(error)


def outcome_of_pillow(data: bytes) -> np.ndarray | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jpeg, "simplejpeg", None)
        return outcome(data)


@given(files())
def test_pixels_equal_those_of_pillow(data):
    pixels = jpeg.decode_jpeg(data, 70 * 70)
    assert pixels is not None, "simplejpeg was not used"
    expected = outcome_of_pillow(data)
    assert isinstance(expected, np.ndarray)
    assert (pixels.dtype, pixels.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(pixels, expected)


@settings(max_examples=300, deadline=None)
@given(files(), st.data())
def test_damaged_data_give_the_same_outcome_as_pillow(data, draw):
    if draw.draw(st.booleans(), "cut"):
        data = data[: draw.draw(st.integers(0, len(data) - 1))]
    else:
        at, new = draw.draw(st.integers(2, len(data) - 1)), draw.draw(st.binary(max_size=4))
        data = data[:at] + new + data[at + draw.draw(st.integers(0, 4)) :]
    found, expected = outcome(data), outcome_of_pillow(data)
    assert isinstance(found, str) == isinstance(expected, str)
    np.testing.assert_array_equal(found, expected)


def test_simplejpeg_is_used():
    assert jpeg.is_used()


def test_large_images_and_other_colour_spaces_are_left_to_pillow():
    assert jpeg.decode_jpeg(with_pillow(np.zeros((8, 9, 3), np.uint8)), 71) is None
    buffer = BytesIO()
    Image.new("CMYK", (8, 8)).save(buffer, "JPEG")
    assert jpeg.decode_jpeg(buffer.getvalue(), 64) is None


def test_decoder_with_different_rounding_is_not_used(monkeypatch):
    decode = partial(simplejpeg.decode_jpeg, fastupsample=True)
    other = type("Other", (), {"decode_jpeg": staticmethod(decode), "encode_jpeg": simplejpeg.encode_jpeg})
    monkeypatch.setattr(jpeg, "simplejpeg", other)
    assert not jpeg.is_used()
    assert jpeg.decode_jpeg(with_pillow(np.zeros((8, 8, 3), np.uint8)), 64) is None
