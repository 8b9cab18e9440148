"""Small lesions survive resizing, and are counted."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage

from uml_shards.sources.lesions import encode_lesions, find_lesions, resize_lesions

CORNERS = np.ones((3, 3))


def masks(values: st.SearchStrategy[int], side: int = 24) -> st.SearchStrategy[np.ndarray]:
    sides = st.tuples(st.integers(1, side), st.integers(1, side))
    return sides.flatmap(lambda shape: arrays(np.uint8, shape, elements=values))


@given(masks(st.integers(0, 1)))
def test_lesions_are_the_areas_that_touch_even_at_corners(mask):
    rows, columns, numbers, count = find_lesions(mask == 1)
    expected, known = ndimage.label(mask, CORNERS)
    assert count == known
    assert len(rows) == mask.sum()
    pairs = set(zip(numbers.tolist(), expected[rows, columns].tolist(), strict=True))
    assert len(pairs) == known == len({number for number, _ in pairs})


def test_a_long_winding_lesion_is_one():
    mask = np.zeros((201, 201), bool)
    mask[::2] = True
    mask[1::4, -1] = mask[3::4, 0] = True
    assert find_lesions(mask)[3] == 1


@given(masks(st.sampled_from([0, 0, 0, 1, 255])), st.tuples(st.integers(1, 30), st.integers(1, 30)), st.floats(0.1, 1))
def test_every_lesion_marks_a_pixel_that_it_covers(mask, size, cover):
    made = resize_lesions(mask, size, cover)
    numbers, count = ndimage.label(mask == 1, CORNERS)
    assert made.mask.shape == size
    assert set(np.unique(made.mask)) <= {0, *np.unique(mask)}
    assert made.lesions == made.survived == count
    for number in range(1, count + 1):
        rows, columns = np.nonzero(numbers == number)
        places = ((2 * rows + 1) * size[0] // (2 * mask.shape[0]), (2 * columns + 1) * size[1] // (2 * mask.shape[1]))
        assert (made.mask[places] == 1).any()


@given(st.integers(2, 8), st.data())
def test_pixels_covered_by_the_stated_share_are_marked_and_others_only_for_a_small_lesion(block, data):
    mask = data.draw(arrays(np.uint8, (4 * block, 4 * block), elements=st.integers(0, 1)))
    made = resize_lesions(mask, (4, 4), 0.5)
    shares = mask.reshape(4, block, 4, block).mean(axis=(1, 3))
    assert (made.mask[shares >= 0.5] == 1).all()
    assert made.mask.sum() <= (shares >= 0.5).sum() + made.single


def test_a_lesion_smaller_than_a_pixel_marks_the_one_it_covers_most():
    mask = np.zeros((16, 16), np.uint8)
    mask[2:4, 3:6] = 1  # 2 pixels of the block on the left, 4 of the block on the right
    mask[8:16, 8:16] = 1
    made = resize_lesions(mask, (4, 4))
    expected = np.zeros((4, 4), np.uint8)
    expected[0, 1], expected[2:, 2:] = 1, 1
    np.testing.assert_array_equal(made.mask, expected)
    assert (made.lesions, made.survived, made.single) == (2, 2, 1)


def test_small_lesions_do_not_grow_with_the_number_of_pixels_they_touch():
    """Max pooling would mark four pixels for a dot on their common corner."""
    mask = np.zeros((64, 64), np.uint8)
    mask[7:9, 7:9] = 1
    assert resize_lesions(mask, (8, 8)).mask.sum() == 1


def test_unknown_pixels_stay_unknown_unless_they_hold_a_lesion():
    mask = np.full((8, 8), 255, np.uint8)
    mask[0, 0] = 1
    np.testing.assert_array_equal(resize_lesions(mask, (2, 2)).mask, [[1, 255], [255, 255]])


def test_the_share_of_lesions_that_survive_is_noted_by_name():
    dots, blot, nothing = np.zeros((3, 40, 40), np.uint8)
    dots[5::10, 5::10], blot[10:30, 10:30] = 1, 1
    notes = []
    components = encode_lesions(
        {"dots": dots, "blot": blot, "nothing": nothing}, (10, 10), lambda *note: notes.append(note)
    )
    assert list(components) == ["mask.dots.png", "mask.blot.png", "mask.nothing.png"]
    with Image.open(BytesIO(components["mask.dots.png"])) as stored:
        assert np.asarray(stored).sum() == 16
    assert notes == [
        ("dots that survive resizing", 16, 16),
        ("dots too small for the size, which mark the pixel that they cover most", 16, 0),
        ("blot that survive resizing", 1, 1),
    ]


@pytest.mark.parametrize("size", [(40, 40), (80, 120)])
def test_masks_that_are_not_shrunk_keep_every_pixel(size):
    mask = (np.arange(1600).reshape(40, 40) % 7 == 0).astype(np.uint8)
    made = resize_lesions(mask, size)
    np.testing.assert_array_equal(made.mask, np.kron(mask, np.ones((size[0] // 40, size[1] // 40), np.uint8)))
    assert made.single == 0
