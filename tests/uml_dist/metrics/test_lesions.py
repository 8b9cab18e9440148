"""Lesions that overlap: figures worked out by hand, and their metrics beside those of pixel classes."""

import numpy as np
import pytest
import torch

from case_rows import cases_of
from manifests import manifest_of
from uml_dist.batch import Batch, Prediction
from uml_dist.metrics.families import ImageClasses, Lesions
from uml_dist.metrics.selection import check_selection, parse_selection
from uml_dist.metrics.summary import definition_of, metric_names, summarise

MANIFEST = manifest_of(mask_classes=(), mask_names=("drusen", "bleeding"), classes=(), labelled=0)


def batch_of(mask):
    count = len(mask)
    numbers, absent = torch.arange(count), -torch.ones(count, dtype=torch.int64)
    keys = tuple(f"case-{number}" for number in range(count))
    return Batch(torch.zeros(count, 3, 2, 2), mask, absent, torch.ones(count), numbers, numbers, keys)


def rows_of(mask, probability):
    batch = batch_of(torch.tensor(mask, dtype=torch.uint8))
    columns = Lesions().columns(batch, Prediction(lesion_probability=torch.tensor(probability)), MANIFEST)
    values = {name: column.tolist() for name, column in columns.items()}
    return [{"key": key, "label": -1, **{name: v[i] for name, v in values.items()}} for i, key in enumerate(batch.keys)]


def test_overlap_and_likelihood_of_each_lesion_are_worked_out_by_hand():
    mask = [[[[1, 1], [0, 255]], [[0, 1], [0, 0]]], [[[255, 255], [255, 255]]] * 2]
    probability = [[[[0.9, 0.4], [0.6, 0.9]], [[0.1, 0.8], [0.2, 0.5]]], [[[0.5, 0.5], [0.5, 0.5]]] * 2]
    rows = rows_of(mask, probability)
    # Of drusen, one of two pixels is found, and one pixel is predicted that is none; the ignored pixel counts nowhere.
    assert [rows[0][f"{name}_0"] for name in ("intersection", "predicted", "true")] == [1, 2, 2]
    assert [rows[0][f"{name}_1"] for name in ("intersection", "predicted", "true")] == [1, 2, 1]
    of_target = [0.9, 0.4, 0.4, 0.9, 0.8, 0.8, 0.5]
    assert rows[0]["lesion_nll"] == pytest.approx(-np.log(of_target).mean(), rel=1e-6)
    assert rows[1]["pixels"] == 0
    found = summarise(cases_of(rows), MANIFEST)
    assert found["dice_drusen"] == pytest.approx(2 / 4)
    assert found["dice_bleeding"] == pytest.approx(2 / 3)
    assert found["dice"] == pytest.approx((2 / 4 + 2 / 3) / 2)
    assert found["loss"] == found["lesion_nll"]


def test_names_and_definitions_are_those_of_the_lesions():
    names = metric_names(MANIFEST, [Lesions()])
    lesions = [f"{kind}{end}" for kind in ("dice", "iou") for end in ("", "_drusen", "_bleeding")]
    assert names == ["loss", "lesion_nll", lesions[0], "dice_present", *lesions[1:]]
    assert all(definition_of(name).text for name in names)
    check_selection(parse_selection("mean(dice_drusen, iou_bleeding)"), MANIFEST)


def test_a_split_without_named_masks_has_no_columns_whatever_the_recipe_predicts():
    """As the stream of grades of a recipe that predicts lesions and grades."""
    batch = batch_of(torch.full((2, 2, 2), 255, dtype=torch.uint8))
    prediction = Prediction(lesion_probability=torch.rand(2, 4, 2, 2))
    assert Lesions().columns(batch, prediction, manifest_of(mask_classes=())) == {}


def test_a_split_without_classes_has_no_columns_of_them_whatever_the_recipe_predicts():
    """As the stream of lesions of that recipe."""
    batch = batch_of(torch.zeros(2, 2, 2, 2, dtype=torch.uint8))
    prediction = Prediction(image_probability=torch.rand(2, 5).softmax(1), image_vacuity=torch.rand(2))
    assert ImageClasses().columns(batch, prediction, MANIFEST) == {}


def test_recipes_without_lesion_maps_have_no_columns():
    batch = batch_of(torch.zeros(2, 2, 2, 2, dtype=torch.uint8))
    assert Lesions().columns(batch, Prediction(), MANIFEST) == {}
