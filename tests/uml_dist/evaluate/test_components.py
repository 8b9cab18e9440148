"""The largest component of each class: which pixels stay, and what does not change."""

import numpy as np
import pytest
import torch

from uml_dist.batch import Prediction
from uml_dist.errors import UmlError
from uml_dist.evaluate.components import keep_largest
from uml_dist.metrics.families.pixel_classes import pixel_columns


def predicting(*classes, number=3):
    """A prediction of class maps, each given as rows of digits."""
    maps = torch.tensor([[[int(digit) for digit in row] for row in one.split()] for one in classes])
    return Prediction(pixel_probability=torch.nn.functional.one_hot(maps, number).movedim(-1, 1).float())


def kept(*classes):
    found = keep_largest(predicting(*classes)).pixel_class
    assert found.dtype == torch.uint8
    return [" ".join("".join(map(str, row)) for row in one) for one in found.tolist()]


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("11000 11001 00001", "11000 11000 00000"),
        ("10000 01000 00011", "10000 01000 00000"),  # pixels that touch at a corner are connected
        ("11022 00002 12002", "11022 00002 00002"),  # each class by itself
        ("00000 00000 00000", "00000 00000 00000"),
        ("22222 22222 22222", "22222 22222 22222"),
        ("00010 00000 01000", "00010 00000 00000"),
    ],
    ids=["two components", "corners and ties", "several classes", "empty", "full", "first of two pixels"],
)
def test_one_component_of_each_class_stays(classes, expected):
    assert kept(classes) == [expected]


def test_samples_are_independent():
    one, other = "110 000 001", "000 200 200"
    assert kept(one, other) == [*kept(one), *kept(other)]


def test_in_volumes_voxels_that_touch_at_a_corner_are_connected():
    volume = np.zeros((1, 2, 6, 6, 6), dtype=np.float32)
    chain, block = [(0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3)], [(5, 0, 5), (5, 1, 5), (5, 2, 5)]
    for place in [*chain, *block]:
        volume[0, 1][place] = 1
    volume[:, 0] = 1 - volume[:, 1]
    found = keep_largest(Prediction(pixel_probability=torch.from_numpy(volume))).pixel_class[0]
    assert sorted(map(tuple, found.nonzero().tolist())) == chain


def test_overlap_is_that_of_the_component_and_calibration_that_of_the_probability():
    prediction, mask = predicting("1101 1100 0000", number=2), torch.zeros(1, 3, 4, dtype=torch.uint8)
    mask[0, :2, :2] = 1
    before, after = (pixel_columns(one, mask) for one in (prediction, keep_largest(prediction)))
    assert (int(before["predicted_1"]), int(after["predicted_1"]), int(after["intersection_1"])) == (5, 4, 4)
    assert float(after["area_1"]) == pytest.approx(4 / 12)
    for name in ("pixel_nll", "pixel_calibration", "entropy_histogram"):
        assert torch.equal(before[name], after[name]), name


def test_a_prediction_without_pixel_classes_is_refused():
    with pytest.raises(
        UmlError, match="largest_component needs one class per pixel, which the recipe does not predict"
    ):
        keep_largest(Prediction(lesion_probability=torch.ones(1, 2, 4, 4)))
