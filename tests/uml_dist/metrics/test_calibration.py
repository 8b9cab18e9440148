"""Brier scores and the calibration along the boundary of the mask, against scikit-learn and torchmetrics."""

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from case_rows import cases_of
from manifests import manifest_of
from masked_batches import batch_of
from uml_dist.batch import Prediction
from uml_dist.metrics.families import Calibration, ImageClasses, PixelClasses
from uml_dist.metrics.families.calibration import BAND
from uml_dist.metrics.summary import formable, intervals, summarise
from uml_shards.sample import IGNORE

FAMILIES = (ImageClasses(), PixelClasses(), Calibration())


def image_rows(label, probability):
    return [
        {
            **{"key": "a", "label": float(k), "image_nll": 1.0},
            **{f"probability_{c}": value for c, value in enumerate(row)},
        }
        for k, row in zip(label, probability, strict=True)
    ]


@pytest.mark.parametrize("classes", [2, 4])
def test_brier_score_of_images_is_scikit_learn_s(classes):
    generator = np.random.default_rng(classes)
    probability, label = generator.dirichlet(np.ones(classes), 50), generator.integers(0, classes, 50)
    manifest = manifest_of(classes=tuple("abcd"[:classes]), masked=0)
    rows = image_rows(label, probability)
    expected = brier_score_loss(label, probability, labels=range(classes), scale_by_half=False)
    assert summarise(cases_of(rows), manifest, families=FAMILIES)["image_brier"] == pytest.approx(expected)
    unlabelled = image_rows([-1], [np.full(classes, 1 / classes)])
    found = summarise(cases_of([*rows, *unlabelled]), manifest, families=FAMILIES)
    assert found["image_brier"] == pytest.approx(expected)


@pytest.mark.parametrize(("said", "expected"), [(1.0, 0.0), (0.0, 2.0), (0.5, 0.5)])
def test_certain_and_constant_probabilities_have_the_ends_of_the_brier_score(said, expected):
    found = summarise(cases_of(image_rows([1, 1], [[1 - said, said]] * 2)), manifest_of(masked=0), families=FAMILIES)
    assert found["image_brier"] == expected


def drawn_pixels(shape, classes, cases=3, seed=0):
    """Probability, and masks of few blocks with ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    probability = torch.randn(cases, classes, *shape, generator=generator).mul(2).softmax(1)
    blocks = torch.randint(0, classes, (cases, 1, *(-(-side // 8) for side in shape)), generator=generator)
    mask = torch.nn.functional.interpolate(blocks.float(), size=shape, mode="nearest")[:, 0].to(torch.uint8)
    mask[:, :2] = IGNORE
    return probability, mask.numpy()


def figures_of(prediction, masks, manifest, draws=0):
    batch, found = batch_of(masks), {}
    for family in FAMILIES:
        found |= {name: values.numpy() for name, values in family.columns(batch, prediction, manifest).items()}
    rows = [{"key": key, "label": -1, **{n: v[i] for n, v in found.items()}} for i, key in enumerate(batch.keys)]
    return cases_of(rows, draws)


def near_another_class(mask):
    found = np.zeros(mask.shape, dtype=bool)
    for place in np.argwhere(mask != IGNORE):
        window = mask[tuple(slice(max(0, p - BAND), p + BAND + 1) for p in place)]
        found[tuple(place)] = len(set(window[window != IGNORE])) > 1
    return found


@pytest.mark.parametrize("shape", [(32, 24), (16, 16, 5)])
@pytest.mark.parametrize("classes", [2, 3])
def test_pixels_are_scored_as_scikit_learn_and_torchmetrics_do(shape, classes):
    probability, masks = drawn_pixels(shape, classes)
    manifest = manifest_of(classes=(), labelled=0, mask_classes=("background", "a", "b")[:classes])
    cases = figures_of(Prediction(pixel_probability=probability), masks, manifest)
    found = summarise(cases, manifest, families=FAMILIES)
    scores = []
    for one, mask in zip(probability.double(), masks, strict=True):
        valid = torch.from_numpy(mask != IGNORE)
        flat = one.movedim(0, -1)[valid].numpy()
        flat /= flat.sum(1, keepdims=True)
        truth = mask[mask != IGNORE]
        scores.append(brier_score_loss(truth, flat, labels=range(classes), scale_by_half=False))
    assert found["pixel_brier"] == pytest.approx(np.mean(scores), rel=1e-5)
    band = torch.from_numpy(np.stack([near_another_class(mask) for mask in masks]))
    assert 0.1 < band.float().mean() < 0.9
    target = torch.from_numpy(masks)[band].long()
    expected = multiclass_calibration_error(probability.movedim(1, -1)[band], target, classes, n_bins=15, norm="l1")
    assert found["pixel_ece_border"] == pytest.approx(float(expected), abs=1e-5)
    assert found["pixel_ece_border"] != found["pixel_ece"]


def test_masks_without_a_boundary_have_no_error_along_it():
    probability, masks = drawn_pixels((16, 16), 2)
    manifest = manifest_of(classes=(), labelled=0)
    one_class = np.where(masks == IGNORE, IGNORE, 1).astype(np.uint8)
    found = summarise(
        figures_of(Prediction(pixel_probability=probability), one_class, manifest), manifest, families=FAMILIES
    )
    assert "pixel_ece_border" not in found
    assert 0 < found["pixel_brier"] < 2
    ignored = figures_of(Prediction(pixel_probability=probability), np.full_like(masks, IGNORE), manifest)
    assert summarise(ignored, manifest, families=FAMILIES) == {}


def test_lesions_have_the_mean_of_their_binary_scores():
    generator = np.random.default_rng(0)
    probability, mask = generator.random((2, 2, 8, 8)), generator.integers(0, 2, (2, 2, 8, 8)).astype(np.uint8)
    mask[0, :, 0] = IGNORE
    manifest = manifest_of(classes=(), mask_classes=(), mask_names=("a", "b"), labelled=0)
    columns = Calibration().columns(
        batch_of(mask), Prediction(lesion_probability=torch.from_numpy(probability)), manifest
    )
    for number in range(2):
        valid = mask[number] != IGNORE
        expected = brier_score_loss(mask[number][valid], probability[number][valid])
        assert float(columns["lesion_brier"][number]) == pytest.approx(expected, rel=1e-5)
    assert set(formable(manifest, (Calibration(),))) == {"loss", "lesion_brier"}


def test_scores_have_intervals():
    probability, masks = drawn_pixels((16, 16), 2, cases=12)
    manifest = manifest_of(classes=(), labelled=0)
    cases = figures_of(Prediction(pixel_probability=probability), masks, manifest, draws=100)
    found, ends = summarise(cases, manifest, families=FAMILIES), intervals(cases, manifest, families=FAMILIES)
    for name in ("pixel_brier", "pixel_ece_border"):
        assert ends[name][0] <= found[name] <= ends[name][1]
