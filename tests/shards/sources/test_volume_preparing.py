"""Tests of preparing volumes: clipping, scaling and resampling."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uml_shards import ShardError
from uml_shards.format.volume import decode_volume, decode_volume_mask
from uml_shards.sources.masks import LOST
from uml_shards.sources.raw_volume import MAX_VOXELS
from uml_shards.sources.volume_files import Volume
from uml_shards.sources.volume_preparing import Preparation, encode_prepared, resample, resample_mask, scale
from volume_writers import anatomy, ras_affine

HERE = Path("volume")


@given(
    shape=st.tuples(*[st.integers(4, 12)] * 3),
    old=st.tuples(*[st.floats(0.5, 2)] * 3),
    new=st.tuples(*[st.floats(0.5, 2)] * 3),
)
@settings(max_examples=40, deadline=None)
def test_resampling_preserves_a_linear_ramp(shape, old, new):
    def ramp(volume: Volume) -> np.ndarray:
        """Return 3 x - 2 y + z, with x, y, z in mm."""
        places = np.stack([*np.indices(volume.values.shape), np.ones(volume.values.shape)], axis=-1) @ volume.affine.T
        return places[..., :3] @ np.asarray([3.0, -2.0, 1.0])

    affine = ras_affine(old)
    volume = Volume(ramp(Volume(np.empty(shape), affine)).astype(np.float32), affine)
    found = resample(volume, new, HERE)
    assert found.values.shape == tuple(max(1, round(n * a / b)) for n, a, b in zip(shape, old, new, strict=True))
    ratio = np.asarray(new) / old
    np.testing.assert_allclose(found.spacing, np.where(np.abs(ratio - 1) < 1e-3, old, new), rtol=1e-6)
    # The centre of the volume does not move.
    middle = [np.append((np.asarray(one.values.shape) - 1) / 2, 1) @ one.affine.T for one in (volume, found)]
    np.testing.assert_allclose(middle[0], middle[1], atol=1e-6)
    # Exclude the rim, where the edge is repeated: 4 widths of the Gaussian, and half a voxel.
    rim = [math.ceil((4 * max(0, r - 1) / 2 + 1.5) / r) for r in ratio]
    inside = tuple(slice(n, m - n) for n, m in zip(rim, found.values.shape, strict=True))
    np.testing.assert_allclose(found.values[inside], ramp(found)[inside], atol=2e-3)


@given(place=st.tuples(*[st.integers(0, 11)] * 3), cover=st.floats(0.02, 0.08))
@settings(max_examples=30, deadline=None)
def test_covered_share_keeps_a_voxel_that_nearest_loses(place, cover):
    mask = np.zeros((12, 12, 12), np.uint8)
    mask[place] = 3
    volume = Volume(mask, np.eye(4))
    kept = resample_mask(volume, (2, 2, 2), HERE, cover).values
    assert kept.shape == resample_mask(volume, (2, 2, 2), HERE).values.shape == (6, 6, 6)
    assert set(np.unique(kept)) == {0, 3}
    assert kept[tuple(side // 2 for side in place)] == 3


def test_lost_classes_of_volumes_are_noted():
    mask = np.zeros((12, 12, 12), np.uint8)
    mask[3, 3, 3] = 1
    notes: list[str] = []
    for cover in (None, 0.001):
        how = Preparation(spacing=(4, 4, 4), mask_cover=cover)
        encode_prepared(Volume(anatomy((12, 12, 12)), np.eye(4)), mask, how, HERE, note=notes.append)
    assert notes == [LOST]


def test_resampling_keeps_integers_and_channels_and_never_mixes_classes():
    volume = Volume(np.stack([anatomy((8, 8, 8)), -anatomy((8, 8, 8))], 3), np.eye(4))
    found = resample(volume, (2, 0.5, 1), HERE)
    assert (found.values.shape, found.values.dtype) == ((4, 16, 8, 2), np.int16)
    np.testing.assert_array_equal(found.values[..., 0], -found.values[..., 1])
    mask = Volume(np.resize(np.uint8([0, 7, 255]), (8, 8, 8)), np.eye(4))
    drawn = resample(mask, (1.7, 0.6, 1), HERE, nearest=True)
    assert set(np.unique(drawn.values)) == {0, 7, 255}
    assert drawn.values.shape == (5, 13, 8)
    same = resample(volume, (1, 1.0004, 1), HERE)
    assert same is volume


def test_unknown_spacing_and_too_many_voxels_are_refused():
    with pytest.raises(ShardError, match="does not state its voxel size"):
        resample(Volume(anatomy(), np.eye(4), stated=False), (2, 2, 2), HERE)
    with pytest.raises(ShardError, match=f"exceeds the limit of {MAX_VOXELS} voxels"):
        resample(Volume(anatomy(), np.eye(4)), (0.001, 0.001, 0.001), HERE)


def test_intensities_are_normalised_by_the_nonzero_voxels():
    head = np.zeros((6, 6, 6), np.int16)
    head[1:5, 1:5, 1:5] = np.arange(100, 164).reshape(4, 4, 4)
    values = scale(Volume(head, np.eye(4)), Preparation(intensity="volume"), HERE).values
    inside = values[1:5, 1:5, 1:5]
    assert values.dtype == np.float32
    assert (inside.mean(), inside.std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1))
    assert values[0, 0, 0] == pytest.approx((0 - 131.5) / np.arange(64).std())
    both = Volume(np.stack([head, head], 3), np.eye(4))
    mixed = scale(both, Preparation(intensity=["keep", "volume"]), HERE).values
    np.testing.assert_array_equal(mixed[..., 0], head)
    np.testing.assert_allclose(mixed[..., 1], values, rtol=1e-6)
    with pytest.raises(ShardError, match="must have 1 channels, but has 2"):
        scale(both, Preparation(intensity=["keep"]), HERE)


@pytest.mark.parametrize("value", [0, 5])
def test_constant_volume_cannot_be_normalised(value):
    with pytest.raises(ShardError, match="all non-zero voxels are equal"):
        scale(Volume(np.full((3, 3, 3), value, np.int16), np.eye(4)), Preparation(intensity="volume"), HERE)


def test_window_clips_and_keeps_integers():
    values = scale(Volume(anatomy(), np.eye(4)), Preparation(window=(-10.0, 50.0)), HERE).values
    assert values.dtype == np.int16
    np.testing.assert_array_equal(values, np.clip(anatomy(), -10, 50))
    far = scale(Volume(anatomy(), np.eye(4)), Preparation(window=(-1e6, 50.5)), HERE).values
    np.testing.assert_allclose(far, np.clip(anatomy().astype(float), -1e6, 50.5))


def test_image_and_mask_are_resampled_to_the_same_voxels():
    image = Volume(anatomy((8, 8, 8)), ras_affine())
    mask = (image.values > 100).astype(np.uint8)
    components = encode_prepared(image, mask, Preparation(spacing=(1, 1, 1)), HERE)
    made = decode_volume(components["npy"])[..., 0]
    drawn = decode_volume_mask(components["mask.npy"], 2)
    assert made.shape == drawn.shape == (4, 6, 16)
    # 100 is between two planes of the ramp, so nearest and linear interpolation differ only next to it.
    clear = np.abs(made - 100) > 64
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(drawn[clear], made[clear] > 100)
