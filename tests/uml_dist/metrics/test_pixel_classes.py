"""What a case keeps of its pixels, against the pixels themselves."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from case_rows import cases_of
from manifests import manifest_of
from uml_dist.batch import Prediction
from uml_dist.metrics.families.pixel_classes import pixel_columns
from uml_dist.metrics.histograms import CALIBRATION_BINS
from uml_dist.metrics.summary import summarise
from uml_shards.sample import IGNORE

CASES, SIDE = 3, 64


def predicted_pixels(classes, spread, centre, seed=0):
    """Probability, mask with ignored pixels, and a vacuity that knows a little of where the prediction is wrong."""
    generator = torch.Generator().manual_seed(seed)
    probability = torch.randn(CASES, classes, SIDE, SIDE, generator=generator).mul(2).softmax(1)
    mask = torch.randint(0, classes, (CASES, SIDE, SIDE), generator=generator)
    right = torch.rand(mask.shape, generator=generator) < 0.7
    mask = torch.where(right, probability.argmax(1), mask).to(torch.uint8)
    wrong = (probability.argmax(1) != mask).float()
    vacuity = (centre + spread * (torch.randn(mask.shape, generator=generator) + wrong)).sigmoid()
    mask[:, :10] = IGNORE
    mask[0, 10:30] = IGNORE
    return probability, mask, vacuity


def rows_of(columns):
    values = {name: column.numpy() for name, column in columns.items()}
    return [{"key": str(i), "label": -1, **{name: v[i] for name, v in values.items()}} for i in range(CASES)]


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(
    ("centre", "spread"),
    [(0.0, 1.0), (-11.0, 0.5), (9.0, 0.5), (-3.0, 0.2)],
    ids=["broad", "tiny", "near one", "narrow"],
)
def test_error_detection_and_calibration_are_those_of_the_raw_pixels(classes, centre, spread):
    from torchmetrics.functional.classification import multiclass_calibration_error

    probability, mask, vacuity = predicted_pixels(classes, spread, centre)
    columns = pixel_columns(Prediction(pixel_probability=probability, pixel_vacuity=vacuity), mask)
    manifest = manifest_of(mask_classes=("background", "a", "b", "c")[:classes])
    found = summarise(cases_of(rows_of(columns)), manifest)
    valid = mask != IGNORE
    wrong = (probability.argmax(1) != mask)[valid].numpy()
    entropy = -(probability.double() * probability.double().log()).sum(1)
    assert 0.1 < wrong.mean() < 0.4
    for kind, score in (("vacuity", vacuity.double()), ("entropy", entropy)):
        exact = roc_auc_score(wrong, score[valid].numpy())
        assert found[f"pixel_error_auroc_{kind}"] == pytest.approx(exact, abs=1e-3)
    flat = probability.movedim(1, 3)[valid]
    ece = multiclass_calibration_error(flat, mask[valid].long(), classes, n_bins=15, norm="l1")
    assert found["pixel_ece"] == pytest.approx(float(ece), abs=1e-5)


def test_histograms_hold_every_pixel_that_counts_once():
    probability, mask, vacuity = predicted_pixels(3, 1.0, 0.0)
    columns = pixel_columns(Prediction(pixel_probability=probability, pixel_vacuity=vacuity), mask)
    valid = (mask != IGNORE).flatten(1).sum(1)
    right = ((probability.argmax(1) == mask) & (mask != IGNORE)).flatten(1).sum(1)
    assert torch.equal(columns["pixels"], valid)
    for kind in ("vacuity", "entropy"):
        assert torch.equal(columns[f"{kind}_histogram"].sum(2), torch.stack([right, valid - right], 1))
    assert torch.equal(columns["pixel_calibration"].sum(1)[:, [0, 2]], torch.stack([valid, right], 1).double())


@pytest.mark.parametrize("value", [0.0, 1e-30, 1.0, 1.0 + 1e-6])
def test_the_ends_of_the_scales_have_bins_too(value):
    probability = torch.tensor([0.0, 1.0])[None, :, None, None].expand(1, 2, 4, 4)
    prediction = Prediction(pixel_probability=probability, pixel_vacuity=torch.full((1, 4, 4), value))
    columns = pixel_columns(prediction, torch.ones(1, 4, 4, dtype=torch.uint8))
    place = int(columns["vacuity_histogram"][0, 0].argmax())
    assert place == (0 if value < 0.5 else columns["vacuity_histogram"].shape[2] - 1)
    assert columns["entropy_histogram"][0, 0, 0] == 16
    assert columns["pixel_calibration"][0, CALIBRATION_BINS - 1].tolist() == [16, 16, 16]


def test_a_case_whose_pixels_are_all_ignored_counts_nowhere():
    probability, mask, vacuity = predicted_pixels(2, 1.0, 0.0)
    prediction = Prediction(pixel_probability=probability, pixel_vacuity=vacuity)
    mask[2] = IGNORE
    with_it = rows_of(pixel_columns(prediction, mask))
    assert with_it[2]["pixels"] == 0
    assert np.isnan(with_it[2]["pixel_nll"])
    assert summarise(cases_of(with_it), manifest_of()) == summarise(cases_of(with_it[:2]), manifest_of())
    mask[:] = IGNORE
    assert summarise(cases_of(rows_of(pixel_columns(prediction, mask))), manifest_of()) == {}


def test_predictions_that_are_no_numbers_stop_nothing():
    probability, mask, vacuity = predicted_pixels(2, 1.0, 0.0)
    prediction = Prediction(pixel_probability=probability * np.nan, pixel_vacuity=vacuity * np.nan)
    assert summarise(cases_of(rows_of(pixel_columns(prediction, mask))), manifest_of()) == {}
