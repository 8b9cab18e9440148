"""Tests of encoding and decoding volumes as components."""

from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from uml_shards import ShardError
from uml_shards.format.npy import parse_npy_header
from uml_shards.format.volume import (
    DTYPES,
    HEADER_BYTES,
    IMAGE,
    MASK,
    decode_volume,
    decode_volume_mask,
    encode_volume,
    parse_header,
)

VALUES = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


@given(
    st.sampled_from(DTYPES).flatmap(
        lambda kind: arrays(
            np.dtype(kind),
            array_shapes(min_dims=3, max_dims=4, max_side=5),
            elements={"allow_nan": False, "allow_infinity": False} if np.dtype(kind).kind == "f" else None,
        )
    )
)
def test_encoded_volume_decodes_to_the_same_values(values):
    data = encode_volume(values)
    header = parse_header(data[:HEADER_BYTES], len(data), IMAGE)
    decoded = decode_volume(data)
    assert header.shape == decoded.shape == (*values.shape[:3], *(values.shape[3:] or (1,)))
    assert header.dtype == decoded.dtype == values.dtype
    np.testing.assert_array_equal(decoded, values.reshape(decoded.shape))


def test_byte_order_and_strides_do_not_change_the_encoding():
    other = np.asfortranarray(VALUES.astype(">i2"))
    assert encode_volume(other) == encode_volume(VALUES)


def fortran_volume():
    buffer = BytesIO()
    np.save(buffer, np.asfortranarray(VALUES))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:-1], "has 367 bytes, but shape 4x5x6x1 of int16 needs 368"),
        (lambda data: data + b"\0", "has 369 bytes"),
        (lambda data: data[:100], "not a .npy file of version 1.0"),
        (lambda data: b"\x93NUMPY\x02" + data[7:], "not a .npy file of version 1.0"),
        (lambda data: b"", "not a .npy file of version 1.0"),
        (lambda data: data.replace(b"(4, 5, 6), } ", b"(4, 5, 60), }"), "needs 2528"),
        (lambda data: data.replace(b"(4, 5, 6), }", b"(4, 30), }  "), "shape 4x30 is not valid for a volume"),
        (lambda data: data.replace(b"(4, 5, 6), ", b"(4, 0, 6), "), "shape 4x0x6 is not valid for a volume"),
        (lambda data: data.replace(b"(4, 5, 6), ", b"(4, -5,-6),"), "its header is damaged"),
        (lambda data: fortran_volume(), "must be in C order"),
        (lambda data: data.replace(b"'<i2'", b"'|O8'"), "not a .npy file of version 1.0|dtype object is not supported"),
        (lambda data: data.replace(b"'<i2'", b"'>i2'"), "dtype >i2 is not supported"),
        (lambda data: data.replace(b"'<i2'", b"'<m8'"), "dtype timedelta64 is not supported"),
    ],
)
def test_invalid_volume_is_refused_in_one_line(change, reason):
    with pytest.raises(ShardError, match=reason) as caught:
        decode_volume(change(encode_volume(VALUES)))
    assert "\n" not in str(caught.value)


def test_object_arrays_are_refused():
    with pytest.raises(ShardError, match="dtype object is not supported"):
        encode_volume(np.empty((1, 1, 1), dtype=object))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_or_infinite_voxel_is_refused(bad):
    values = np.zeros((3, 3, 3), np.float32)
    values[1, 2, 0] = bad
    with pytest.raises(ShardError, match="1 voxels are NaN or infinite"):
        decode_volume(encode_volume(values))


def test_masks_contain_only_classes_and_255():
    mask = np.array([0, 1, 255], np.uint8).reshape(1, 1, 3)
    np.testing.assert_array_equal(decode_volume_mask(encode_volume(mask), 2), mask)
    with pytest.raises(ShardError, match="value 1 is out of range: 1 mask classes"):
        decode_volume_mask(encode_volume(mask), 1)
    with pytest.raises(ShardError, match=f"{MASK}: dtype int16 is not supported: must be uint8"):
        decode_volume_mask(encode_volume(VALUES), 2)
    with pytest.raises(ShardError, match="shape 1x1x3x1 is not valid for a volume: needs 3 axes"):
        decode_volume_mask(encode_volume(mask[..., None]), 2)


def test_a_flipped_bit_of_the_header_is_refused_or_changes_nothing():
    data = encode_volume(VALUES)
    for bit in range(8 * 128):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with suppress(ShardError):
            decoded = decode_volume(bytes(changed))
            # A dtype of the same size, such as uint16, is the only other reading.
            assert decoded.tobytes() == VALUES.tobytes()


@pytest.mark.parametrize("kind", ["<i2", "|u1", "<f4", "<f8", "<c8", ">i4", "|S3", "<U2"])
@pytest.mark.parametrize("shape", [(), (1,), (4, 5), (2, 3, 4, 5), (12345678, 0, 1)])
def test_headers_of_numpy_are_understood(kind, shape):
    values = np.zeros(shape, kind)
    buffer = BytesIO()
    np.save(buffer, values)
    header = parse_npy_header(buffer.getvalue())
    assert header.descr == repr(values.dtype.str)
    assert header.shape == shape
    assert header.start + values.nbytes == len(buffer.getvalue())
