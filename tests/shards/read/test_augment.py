"""Tests of augmentation: depends on the key only, transforms image and mask alike, and keeps class numbers."""

from dataclasses import replace

import numpy as np
import pytest

from uml_shards.read.augment import AUGMENTATIONS, light, resize
from uml_shards.sample import Sample

RNG_KEYS = [(1, "train", position) for position in range(60)]
MASK_VALUE = 200


def shape_of(height: int, width: int) -> np.ndarray:
    """Return a mask of two classes without any symmetry: an L with a thick foot, and a separate bar."""
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[height // 8 : 7 * height // 8, width // 8 : width // 3] = 1
    mask[5 * height // 8 : 7 * height // 8, width // 8 : 3 * width // 4] = 1
    mask[height // 8 : height // 4, width // 2 : 7 * width // 8] = 2
    return mask


def sample_of(height=40, width=40, channels=3, dtype=np.uint8) -> Sample:
    """Return a sample whose image shows its mask: class 1 in the first channel, class 2 in the last."""
    mask = shape_of(height, width)
    image = np.zeros((height, width, channels), dtype=dtype)
    image[..., 0] = MASK_VALUE * (mask == 1)
    image[..., -1] += (MASK_VALUE * (mask == 2)).astype(dtype)
    return Sample(key="a", image=image, mask=mask, label=1, meta={"source": "here"})


@pytest.mark.parametrize(("height", "width"), [(40, 40), (40, 56), (57, 33)])
def test_image_and_mask_move_together(height, width):
    for key in RNG_KEYS:
        moved = light(sample_of(height, width), *key)
        for channel, number in ((0, 1), (2, 2)):
            shown = moved.image[..., channel].astype(int)
            # Edge pixels are excluded: the image blends classes over a pixel or two, the mask does not.
            pure = ((shown <= 20) | (shown >= MASK_VALUE - 20)) & (moved.mask != 255)
            assert pure.mean() > 0.6, key
            assert np.array_equal((shown > MASK_VALUE / 2)[pure], (moved.mask == number)[pure]), key


def test_same_key_gives_the_same_result_and_other_keys_differ():
    original = sample_of()
    before = replace(original, image=original.image.copy(), mask=original.mask.copy())
    first = [light(original, *key) for key in RNG_KEYS]
    again = [light(original, *key) for key in reversed(RNG_KEYS)][::-1]
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.mask, other.mask)
    assert len({one.image.tobytes() for one in first}) == len(RNG_KEYS)
    for different in ((2, "train", 0), (1, "other", 0)):
        assert not np.array_equal(light(original, *different).image, first[0].image)
    assert np.array_equal(original.image, before.image)
    assert np.array_equal(original.mask, before.mask)


def test_other_fields_are_unchanged():
    moved = light(sample_of(), *RNG_KEYS[0])
    assert (moved.key, moved.label, moved.weight, moved.meta) == ("a", 1, 1.0, {"source": "here"})


def test_masks_contain_only_classes_and_ignore():
    for key in RNG_KEYS:
        assert set(np.unique(light(sample_of(), *key).mask)) <= {0, 1, 2, 255}


def test_outside_the_frame_the_mask_is_ignored_and_the_image_repeats_its_edge():
    plain = Sample("a", image=np.full((40, 40, 3), 90, np.uint8), mask=np.ones((40, 40), np.uint8))
    moved = [light(plain, *key) for key in RNG_KEYS]
    ignored = [one.mask == 255 for one in moved]
    share = np.mean([one.any() for one in ignored])
    assert 0.2 < share < 0.8  # it shrinks about as often as it grows
    # 10 % of 40 pixels, on two sides.
    assert not any(one[3:-3, 3:-3].any() for one in ignored)
    assert all((one.image == 90).all() for one in moved)
    assert set(np.unique(np.stack([one.mask for one in moved]))) == {1, 255}


@pytest.mark.parametrize(("height", "width", "orientations"), [(40, 40, 8), (40, 56, 4)])
def test_every_orientation_that_keeps_the_shape_occurs(height, width, orientations):
    """A square has 8 orientations; if height and width differ, quarter turns do not fit and 4 remain."""
    image = np.zeros((height, width, 1), dtype=np.uint8)
    rows, columns = height // 2, width // 2
    image[:rows, columns:], image[rows:, :columns], image[rows:, columns:] = 80, 160, 240
    seen = set()
    for position in range(120):
        moved = light(Sample("a", image=image), 0, "train", position).image
        assert moved.shape == image.shape
        seen.add(tuple(int(moved[r, c, 0]) for r in (height // 4, 3 * height // 4) for c in (width // 4, -width // 4)))
    assert all(sorted(corners) == [0, 80, 160, 240] for corners in seen)
    assert len(seen) == orientations


def test_a_sample_without_a_mask_has_none_afterwards():
    assert light(Sample("a", image=sample_of().image), *RNG_KEYS[0]).mask is None


def test_overlapping_masks_move_like_single_masks():
    one, other = shape_of(40, 40) % 2, shape_of(40, 40) // 2
    image = sample_of().image
    for key in RNG_KEYS[:20]:
        both = light(Sample("a", image=image, mask=np.stack([one, other])), *key).mask
        for layer, alone in zip(both, (one, other), strict=True):
            assert np.array_equal(layer, light(Sample("a", image=image, mask=alone), *key).mask)


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_images_keep_their_dtype_and_move_like_eight_bit_ones(channels):
    eight = sample_of(channels=channels)
    sixteen = replace(eight, image=eight.image.astype(np.uint16) * 257)
    for key in RNG_KEYS[:20]:
        narrow, wide = light(eight, *key), light(sixteen, *key)
        assert (wide.image.dtype, wide.image.shape) == (np.uint16, eight.image.shape)
        assert (narrow.image.dtype, narrow.image.shape) == (np.uint8, eight.image.shape)
        assert np.abs(wide.image / 257 - narrow.image).max() <= 1.0
    flat = light(Sample("a", image=np.full((40, 40, channels), 40001, np.uint16)), *RNG_KEYS[3])
    assert (flat.image == 40001).all()


def test_none_is_no_change():
    assert AUGMENTATIONS["none"] is None
    assert AUGMENTATIONS["light"] is light


def test_resizing_a_mask_takes_the_nearest_pixel():
    mask = np.array([[0, 1, 2], [255, 1, 0]], dtype=np.uint8)
    sample = Sample("a", image=np.zeros((2, 3, 3), np.uint8), mask=mask)
    larger = resize(sample, (6, 12)).mask
    assert np.array_equal(larger, mask.repeat(3, axis=0).repeat(4, axis=1))
    # The middle one of three pixels is nearest to the centre of the new one.
    back = resize(Sample("a", image=np.zeros((6, 9, 3), np.uint8), mask=mask.repeat(3, 0).repeat(3, 1)), (2, 3)).mask
    assert np.array_equal(back, mask)
    assert back.dtype == np.uint8


def test_resizing_overlapping_masks_keeps_all_of_them():
    masks = np.stack([shape_of(40, 56) % 2, shape_of(40, 56) // 2])
    sample = resize(Sample("a", image=np.zeros((40, 56, 1), np.uint8), mask=masks), (80, 112))
    assert sample.image.shape == (80, 112, 1)
    assert np.array_equal(sample.mask, masks.repeat(2, axis=1).repeat(2, axis=2))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_shrinking_an_image_averages_pixels(channels, dtype):
    checks = (np.indices((32, 48)).sum(0) % 2 * 200)[..., None].repeat(channels, 2).astype(dtype)
    small = resize(Sample("a", image=checks), (8, 12)).image
    assert (small.shape, small.dtype) == ((8, 12, channels), dtype)
    assert np.abs(small.astype(int) - 100).max() <= 10


def test_image_of_the_right_size_is_unchanged():
    sample = sample_of()
    assert resize(sample, (40, 40)) is sample
