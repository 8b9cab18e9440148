"""Tests of the fast grey PNG codec: it writes standard PNG files, and leaves all other files to Pillow."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from raw_png import raw_png
from uml_shards import ShardError
from uml_shards.format.grey_png import decode_grey_png, encode_grey_png
from uml_shards.format.picture import decode_grey

LIMIT = 1 << 26
VALUES = np.arange(12, dtype=np.uint8).reshape(3, 4)
MAPS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40))


def pillow(values, **options):
    buffer = BytesIO()
    Image.fromarray(values).save(buffer, "PNG", **options)
    return buffer.getvalue()


@given(MAPS)
def test_encoded_files_are_decoded_by_us_and_by_pillow(values):
    data = encode_grey_png(values)
    read = decode_grey_png(data, LIMIT)
    np.testing.assert_array_equal(read, values)
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(data))), values)
    assert read.flags.c_contiguous
    assert read.flags.writeable


@given(MAPS, st.integers(0, 9))
def test_pillow_files_decode_to_the_same_values_with_both_decoders(values, level):
    data = pillow(values, compress_level=level)
    read = decode_grey_png(data, LIMIT)
    if read is not None:
        np.testing.assert_array_equal(read, values)
    np.testing.assert_array_equal(decode_grey(data, "mask.png"), values)


@given(MAPS, st.data())
def test_damaged_files_are_not_decoded(values, draw):
    data = bytearray(encode_grey_png(values))
    place = draw.draw(st.integers(0, len(data) - 1))
    data[place] ^= draw.draw(st.integers(1, 255))
    assert decode_grey_png(bytes(data), LIMIT) is None
    cut = draw.draw(st.integers(0, len(data) - 1))
    assert decode_grey_png(encode_grey_png(values)[:cut], LIMIT) is None


@pytest.mark.parametrize(
    "data",
    [
        raw_png(4, 3, 8, 2, bytes(39)),
        raw_png(4, 3, 16, 0, bytes(27)),
        raw_png(4, 3, 8, 0, bytes(14)),
        raw_png(4, 3, 8, 0, bytes(16)),
        raw_png(4, 3, 8, 0, b"\1" + bytes(14)),
        raw_png(0, 3, 8, 0, bytes(3)),
        raw_png(100_000, 100_000, 8, 0, bytes(15)),
        encode_grey_png(VALUES) + b"more",
        b"",
    ],
    ids=["colours", "16 bits", "too few", "too many", "a filter", "no width", "a bomb", "more behind", "nothing"],
)
def test_other_files_are_left_to_pillow(data):
    assert decode_grey_png(data, LIMIT) is None


def test_decompression_bomb_is_not_inflated():
    rows = raw_png(8000, 8000, 8, 0, bytes(1 << 27))  # twice as many bytes as stated in its header
    assert decode_grey_png(rows, LIMIT) is None
    with pytest.raises(ShardError, match="pixels"):
        decode_grey(raw_png(60_000, 60_000, 8, 0, bytes(9)), "mask.png")
