"""Tests of decoding samples and checking them against the manifest."""

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from uml_shards import ShardError
from uml_shards.format.decode import Layout, decode_sample
from uml_shards.format.volume import encode_volume

RAMP = (np.arange(12, dtype=np.uint8) * 20).reshape(3, 4)


def encode(array: np.ndarray, image_format: str) -> bytes:
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, image_format)
    return buffer.getvalue()


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
def test_invalid_label_is_refused(label):
    with pytest.raises(ShardError, match="label"):
        decode_sample("k", with_json(label=label), LAYOUT)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"json": None}, "json is missing"),
        ({"json": b"{"}, "json:"),
        ({"json": b"[]"}, "must be an object"),
        ({"json": b"{}"}, "must be an object with"),
        ({"png": None}, "needs exactly one image .* but none is present"),
        ({"jpg": b"x"}, "needs exactly one image .* but several are present"),
        ({"mask.png": None}, "mask.png is missing"),
        ({"mask.png": encode(np.zeros((4, 3), np.uint8), "PNG")}, "mask is 4x3, image is 3x4"),
    ],
)
def test_incomplete_or_contradictory_sample_is_refused(change, reason):
    components = {name: data for name, data in {**with_json(label=0), **change}.items() if data is not None}
    with pytest.raises(ShardError, match=reason):
        decode_sample("k", components, LAYOUT)


def test_named_masks_are_stacked_and_a_missing_one_is_ignored():
    lesion = np.array([[0, 1, 1, 0]] * 3, dtype=np.uint8)
    components = {"png": IMAGE, "json": b'{"label": null}', "mask.b.png": encode(lesion, "PNG")}
    mask = decode_sample("k", components, Layout(mask_names=("a", "b"))).mask
    assert mask is not None
    np.testing.assert_array_equal(mask[0], 255)
    np.testing.assert_array_equal(mask[1], lesion)


UNPARSED = {
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "an integer of 5000 digits": b'{"age": ' + b"1" * 5000 + b"}",
    "NaN": b'{"age": NaN}',
    "infinity": b'{"age": -Infinity}',
    "a float that overflows": b'{"age": [{"b": 1e999}]}',
    "half a surrogate": b'{"age": "\\ud800"}',
    "no UTF-8": b'{"age": "\xff"}',
    "nothing": b"",
}


@pytest.mark.parametrize("kind", UNPARSED)
def test_json_that_cannot_be_parsed_is_refused_in_one_line(kind):
    with pytest.raises(ShardError, match="json: cannot be read: ") as caught:
        decode_sample("k", {**with_json(), "json": UNPARSED[kind]}, LAYOUT)
    assert "\n" not in str(caught.value)
    assert caught.value.reason == "label"


def test_json_with_a_byte_order_mark_is_read():
    data = with_json(label=1)
    assert decode_sample("k", {**data, "json": b"\xef\xbb\xbf" + data["json"]}, LAYOUT).label == 1


TURNED = [[0.0, -0.5, 0.0, 3.0], [0.5, 0.0, 0.0, -7.0], [0.0, 0.0, 1e-4, 0.0], [0, 0, 0, 1]]
VOLUME = encode_volume(np.ones((2, 3, 4), np.float32))


def decode_volume_with(**meta: object):
    return decode_sample("k", {"npy": VOLUME, "json": json.dumps(meta).encode()}, Layout())


@pytest.mark.parametrize("meta", [{}, {"spacing": [1, 0.5, 1e-4], "affine": TURNED}, {"spacing": None, "affine": None}])
def test_spacing_and_affine_of_a_volume_may_be_unknown(meta):
    assert decode_volume_with(**meta).meta == meta


@pytest.mark.parametrize(
    ("meta", "problem"),
    [
        ({"spacing": [1, 1, 0]}, r"spacing\.2: Input should be greater than 0"),
        ({"spacing": [1, -1, 1]}, r"spacing\.1: "),
        ({"spacing": [1, 1]}, "spacing: "),
        ({"spacing": 1}, "spacing: "),
        ({"spacing": ["1", "1", "1"]}, r"spacing\.0: "),
        ({"spacing": [True, 1, 1]}, r"spacing\.0: "),
        ({"spacing": [10**400, 1, 1]}, ""),
        ({"affine": TURNED[:3]}, "affine: "),
        ({"affine": [[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]]}, "affine: the matrix has no inverse"),
        ({"affine": [[0] * 4] * 3 + [[0, 0, 0, 1]]}, "affine: the matrix has no inverse"),
        ({"affine": np.eye(4)[::-1].tolist()}, "affine: the last row must be 0, 0, 0, 1"),
    ],
)
def test_spacing_and_affine_that_are_not_valid_are_refused(meta, problem):
    with pytest.raises(ShardError, match=f"^json: {problem}") as caught:
        decode_volume_with(**meta)
    assert caught.value.reason == "label"
    assert "\n" not in str(caught.value)
