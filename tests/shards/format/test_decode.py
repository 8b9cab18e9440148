"""Tests of decoding samples and checking them against the manifest."""

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from uml_shards import ShardError
from uml_shards.format.decode import Layout, decode_sample

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
