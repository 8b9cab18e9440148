"""Tests of decoding 2D images: only images that can be decoded without silent loss are accepted."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from raw_png import raw_png
from raw_tiff import raw_tiff
from uml_shards import ShardError
from uml_shards.format.picture import decode_image, decode_mask

RAMP = (np.arange(12, dtype=np.uint8) * 20).reshape(3, 4)


@pytest.fixture(params=["simplejpeg", "Pillow alone"], autouse=True)
def jpeg_decoder(request, monkeypatch):
    """Run all tests with and without the faster decoder."""
    if request.param == "Pillow alone":
        monkeypatch.setattr("uml_shards.format.jpeg.simplejpeg", None)
    else:
        pytest.importorskip("simplejpeg")


def encode(array: np.ndarray, image_format: str, mode: str | None = None) -> bytes:
    buffer = BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, image_format)
    return buffer.getvalue()


def patched(data: bytes, old: bytes, at: int, new: bytes) -> bytes:
    """Return data with `new` written `at` bytes after the first occurrence of `old`."""
    start = data.index(old) + at
    return data[:start] + new + data[start + len(new) :]


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_sixteen_bit_grey_keeps_every_value(extension):
    values = np.array([[0, 300, 2, 40000, 65535]], dtype=np.uint16)
    decoded = decode_image(encode(values, {"png": "PNG", "tif": "TIFF"}[extension]), extension)
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded[..., 0], values)


@pytest.mark.parametrize(("extension", "image_format"), [("png", "PNG"), ("tiff", "TIFF")])
def test_eight_bit_grey_and_colour_are_exact(extension, image_format):
    colour = np.stack([RAMP, RAMP + 1, RAMP + 2], axis=-1)
    np.testing.assert_array_equal(decode_image(encode(colour, image_format), extension), colour)
    np.testing.assert_array_equal(decode_image(encode(RAMP, image_format), extension)[..., 0], RAMP)


def test_jpeg_decodes_to_three_channels():
    assert decode_image(encode(np.full((8, 8, 3), 90, np.uint8), "JPEG"), "jpg").shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("data", "extension", "reason"),
    [
        (encode(RAMP, "PNG", "RGBA"), "png", "mode RGBA"),
        (encode(RAMP, "PNG", "P"), "png", "mode P"),
        (encode(RAMP, "PNG", "LA"), "png", "mode LA"),
        (encode(RAMP, "JPEG", "CMYK"), "jpg", "mode CMYK"),
        (patched(encode(RAMP, "JPEG", "CMYK"), b"Adobe", 11, b"\2"), "jpg", "mode CMYK"),
        (encode(RAMP.astype(np.float32), "TIFF"), "tif", "mode F"),
        (encode(RAMP.astype(np.int32), "TIFF"), "tif", "mode I"),
        (raw_png(1, 1, 16, 2, b"\0" + bytes(6)), "png", "16-bit colour"),
        (raw_tiff(np.full((2, 3, 3), 40000), 2), "tif", "16-bit colour"),
        (encode(RAMP, "PNG"), "jpg", "cannot be read"),
        (b"", "png", "cannot be read"),
        (b"", "jpeg", "cannot be read"),
        (encode(np.zeros((64, 64, 3), np.uint8), "JPEG")[:-40], "jpg", "cannot be read"),
        (encode(np.zeros((64, 64, 3), np.uint8), "JPEG")[:-400], "jpg", "cannot be"),
        (patched(encode(RAMP, "JPEG"), b"\xff\xc0", 5, b"\xea\x60\xea\x60"), "jpg", "pixels"),
        (raw_png(60000, 60000, 8, 0, b""), "png", "pixels"),
    ],
)
def test_unsupported_images_are_refused_in_one_line(data, extension, reason):
    with pytest.raises(ShardError, match=reason) as caught:
        decode_image(data, extension)
    assert "\n" not in str(caught.value)


def test_image_of_several_pages_is_refused():
    buffer = BytesIO()
    Image.fromarray(RAMP).save(buffer, "TIFF", save_all=True, append_images=[Image.fromarray(RAMP)])
    with pytest.raises(ShardError, match="several pages"):
        decode_image(buffer.getvalue(), "tif")


def test_mask_keeps_classes_and_ignore():
    mask = np.array([[0, 1, 2, 255]], dtype=np.uint8)
    np.testing.assert_array_equal(decode_mask(encode(mask, "PNG"), 3), mask)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode(np.array([[0, 3]], np.uint8), "PNG"), "value 3 is out of range"),
        (encode(np.array([[0, 254]], np.uint8), "PNG"), "value 254 is out of range"),
        (encode(np.zeros((2, 2), np.uint8), "PNG", "P"), "8-bit grey"),
        (encode(np.zeros((2, 2), np.uint8), "PNG", "RGB"), "8-bit grey"),
        (encode(np.zeros((2, 2), np.uint8), "PNG", "1"), "8-bit grey"),
        (encode(np.zeros((2, 2), np.uint16), "PNG"), "8-bit grey"),
        # Pillow would stretch the values 0..3 of a 2-bit PNG to 0, 85, 170, 255.
        (raw_png(4, 1, 2, 0, b"\0\x1b"), "8-bit grey"),
    ],
)
def test_unsupported_masks_are_refused(data, reason):
    with pytest.raises(ShardError, match=reason):
        decode_mask(data, 3)
