"""Only what can be decoded without silent loss is decoded."""

import json
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from raw_tiff import raw_tiff
from uml_shards import ShardError
from uml_shards.decode import Layout, decode_image, decode_mask, decode_sample

RAMP = (np.arange(12, dtype=np.uint8) * 20).reshape(3, 4)


def encode(array: np.ndarray, image_format: str, mode: str | None = None) -> bytes:
    buffer = BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, image_format)
    return buffer.getvalue()


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG built by hand, for depths that Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


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
        (encode(RAMP.astype(np.float32), "TIFF"), "tif", "mode F"),
        (encode(RAMP.astype(np.int32), "TIFF"), "tif", "mode I"),
        (raw_png(1, 1, 16, 2, b"\0" + bytes(6)), "png", "16-bit colour"),
        (raw_tiff(np.full((2, 3, 3), 40000), 2), "tif", "16-bit colour"),
        (encode(RAMP, "PNG"), "jpg", "cannot be opened"),
        (b"", "png", "cannot be opened"),
        (encode(np.zeros((64, 64, 3), np.uint8), "JPEG")[:-40], "jpg", "cannot be decoded"),
        (raw_png(60000, 60000, 8, 0, b""), "png", "pixels"),
    ],
)
def test_other_images_are_refused_in_one_line(data, extension, reason):
    with pytest.raises(ShardError, match=reason) as caught:
        decode_image(data, extension)
    assert "\n" not in str(caught.value)


def test_image_of_several_pages_is_refused():
    buffer = BytesIO()
    Image.fromarray(RAMP).save(buffer, "TIFF", save_all=True, append_images=[Image.fromarray(RAMP)])
    with pytest.raises(ShardError, match="2 pages"):
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
def test_other_masks_are_refused(data, reason):
    with pytest.raises(ShardError, match=reason):
        decode_mask(data, 3)


IMAGE = encode(RAMP, "PNG")
LAYOUT = Layout(classes=2, mask_classes=2, masked=True, described=True)


def with_json(**content: object) -> dict[str, bytes]:
    mask = encode(np.zeros((3, 4), np.uint8), "PNG")
    return {"png": IMAGE, "mask.png": mask, "json": json.dumps(content).encode()}


def test_sample_without_a_label_is_unlabelled_and_keeps_its_meta():
    sample = decode_sample("k", with_json(label=None, age=40), LAYOUT)
    assert sample.label is None
    assert sample.meta == {"age": 40}


@pytest.mark.parametrize("label", [2, -1, True, "1", 0.0])
def test_label_that_is_no_class_is_refused(label):
    with pytest.raises(ShardError, match="label"):
        decode_sample("k", with_json(label=label), LAYOUT)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"json": None}, "json is missing"),
        ({"json": b"{"}, "json:"),
        ({"json": b"[]"}, "must be an object"),
        ({"json": b"{}"}, "must be an object with"),
        ({"png": None}, "exactly one image"),
        ({"jpg": b"x"}, "exactly one image"),
        ({"mask.png": None}, "mask.png is missing"),
        ({"mask.png": encode(np.zeros((4, 3), np.uint8), "PNG")}, "4x3, the image 3x4"),
    ],
)
def test_incomplete_or_contradicting_sample_is_refused(change, reason):
    components = {name: data for name, data in {**with_json(label=0), **change}.items() if data is not None}
    with pytest.raises(ShardError, match=reason):
        decode_sample("k", components, LAYOUT)


def test_named_masks_are_stacked_and_an_unknown_one_is_ignored():
    lesion = np.array([[0, 1, 1, 0]] * 3, dtype=np.uint8)
    components = {"png": IMAGE, "json": b'{"label": null}', "mask.b.png": encode(lesion, "PNG")}
    mask = decode_sample("k", components, Layout(mask_names=("a", "b"))).mask
    assert mask is not None
    np.testing.assert_array_equal(mask[0], 255)
    np.testing.assert_array_equal(mask[1], lesion)
