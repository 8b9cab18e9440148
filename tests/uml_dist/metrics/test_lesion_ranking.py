"""AUPR and AUROC of lesions from histograms, beside those that scikit-learn forms of the pixels."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from manifests import manifest_of
from uml_dist.batch import Batch, Prediction
from uml_dist.evaluate.evaluation import Evaluation
from uml_dist.metrics.cases import CaseCollector
from uml_dist.metrics.columns import Columns
from uml_dist.metrics.families import STANDARD, LesionRanking, Lesions
from uml_dist.metrics.histograms import BINS, LOGIT_RANGE, lowest_score, score_histogram
from uml_dist.metrics.selection import check_selection, parse_selection
from uml_dist.metrics.summary import definition_of, draw_metrics, intervals, metrics_of, summarise
from uml_dist.metrics.weighted import average_precision_error, pooled_average_precision
from uml_shards.sample import IGNORE

NAMES = ("microaneurysms", "soft exudates")
MANIFEST = manifest_of(mask_classes=(), mask_names=NAMES, classes=(), labelled=0)
FAMILIES = (Lesions(), LesionRanking())


def batch_of(mask, first=0):
    count = len(mask)
    numbers, absent = torch.arange(first, first + count), -torch.ones(count, dtype=torch.int64)
    keys = tuple(f"case-{number}" for number in range(first, first + count))
    return Batch(torch.zeros(count, 3, *mask.shape[2:]), mask, absent, torch.ones(count), numbers, numbers, keys)


def cases_of(mask, probability, draws=0, batch_size=2):
    collector = CaseCollector([f"case-{number}" for number in range(len(mask))], draws)
    for first in range(0, len(mask), batch_size):
        batch = batch_of(mask[first : first + batch_size], first)
        prediction = Prediction(lesion_probability=probability[first : first + batch_size])
        columns = {"label": batch.label}
        for family in FAMILIES:
            columns |= family.columns(batch, prediction, MANIFEST)
        collector.add(batch, columns)
    return collector.gather()


def found_of(mask, probability):
    return summarise(cases_of(mask, probability), MANIFEST, families=FAMILIES)


def single(positive, score):
    """Mask and probability of one image whose row of pixels has the same scores for both lesions."""
    mask = torch.tensor(positive, dtype=torch.uint8).expand(1, 2, 1, -1)
    return mask, torch.tensor(score, dtype=torch.float32).expand(1, 2, 1, -1)


def realistic(spread, cases=8, side=128, share=0.004, seed=0):
    """Pixels of which few have a lesion, with logits that know a part of it, and a border that is ignored."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(cases, 2, side, side, generator=generator) < share).to(torch.uint8)
    shift = torch.tensor([1.5, 3.0])[:, None, None]
    logits = spread * (torch.randn(mask.shape, generator=generator) + shift * mask) - 3.0
    mask[..., :8, :] = IGNORE
    mask[0] = IGNORE
    return mask, logits.sigmoid()


@pytest.mark.parametrize(("spread", "error"), [(0.3, 3e-3), (1.0, 1e-3), (3.0, 1e-3)])
@pytest.mark.parametrize("share", [0.003, 0.03])
def test_areas_are_those_of_the_pixels_together(spread, error, share):
    mask, probability = realistic(spread, cases=24, share=share)
    found = found_of(mask, probability)
    exact = {}
    for number, name in enumerate(NAMES):
        valid = mask[:, number] != IGNORE
        truth, score = mask[:, number][valid].numpy(), probability[:, number][valid].numpy()
        assert truth.sum() > 1000
        exact[f"aupr_{name}"] = average_precision_score(truth, score)
        exact[f"lesion_auroc_{name}"] = roc_auc_score(truth, score)
    for kind in ("aupr", "lesion_auroc"):
        exact[kind] = np.mean([exact[f"{kind}_{name}"] for name in NAMES])
    assert 0.02 < exact["aupr_microaneurysms"] < 0.3 < exact["aupr_soft exudates"] < 0.9
    for name, value in exact.items():
        assert found[name] == pytest.approx(value, abs=error)


pixels = st.lists(
    st.tuples(st.booleans(), st.one_of(st.sampled_from([0.0, 0.5, 0.5001, 1.0]), st.floats(0.0, 1.0, width=32))),
    min_size=1,
    max_size=40,
).filter(lambda drawn: any(positive for positive, _ in drawn))


@given(pixels)
@settings(max_examples=150, deadline=None)
def test_average_precision_of_any_pixels_differs_by_less_than_its_error(drawn):
    positive, score = zip(*drawn, strict=True)
    cases = cases_of(*single(positive, score))
    sums = cases.all
    value, error = (f("lesion_histogram_0")(sums)[0] for f in (pooled_average_precision, average_precision_error))
    exact = average_precision_score(positive, np.asarray(score, dtype=np.float32))
    assert 0.0 <= value <= 1.0 + 1e-12
    assert abs(value - exact) <= error + 1e-9


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=12, unique_by=lambda one: one[1]))
@settings(max_examples=50, deadline=None)
def test_average_precision_of_distinct_scores_is_exact(drawn):
    positive, score = zip(*[(one, 0.2 + 0.1 * place) for one, place in drawn], strict=True)
    found = found_of(*single(positive, score))
    if any(positive):
        assert found["aupr"] == pytest.approx(average_precision_score(positive, score))
    else:
        assert "aupr" not in found


def test_a_perfect_ranking_has_1_a_constant_score_the_share_of_the_lesion():
    positive = [True] * 3 + [False] * 9
    perfect = found_of(*single(positive, [0.7, 0.8, 0.9, *[0.1] * 9]))
    assert (perfect["aupr"], perfect["lesion_auroc"]) == (1.0, 1.0)
    for score in (0.0, 0.3, 1.0):
        constant = found_of(*single(positive, [score] * 12))
        assert constant["aupr"] == pytest.approx(3 / 12)
        assert constant["lesion_auroc"] == pytest.approx(0.5)


def test_one_positive_among_equal_scores_comes_last_as_in_scikit_learn():
    positive, score = [False, True, False, True, False], [0.9, 0.4, 0.4, 0.2, 0.4]
    assert found_of(*single(positive, score))["aupr"] == pytest.approx(average_precision_score(positive, score))


def test_a_lesion_without_a_pixel_in_any_mask_has_no_area_and_the_reason_is_given():
    mask, probability = realistic(1.0)
    mask[:, 1] = torch.where(mask[:, 1] == IGNORE, IGNORE, 0)
    cases = cases_of(mask, probability)
    metrics = summarise(cases, MANIFEST, families=FAMILIES)
    result = Evaluation(MANIFEST, "one", FAMILIES, metrics, cases, ())
    assert {"aupr_microaneurysms", "lesion_auroc_microaneurysms"} <= set(metrics)
    expected = {f"{kind}{end}" for kind in ("aupr", "lesion_auroc") for end in ("", "_soft exudates")}
    assert {name for name, need in result.left_out.items() if need == "a pixel of soft exudates in a mask"} == expected


def test_a_split_without_masks_lacks_them_and_recipes_without_lesions_have_no_figures():
    lacks = LesionRanking().requirements(MANIFEST.model_copy(update={"masked": 0}))
    assert list(lacks) == [
        f"{kind}{end}" for kind in ("aupr", "lesion_auroc") for end in ("", *(f"_{n}" for n in NAMES))
    ]
    assert set(lacks.values()) == {"an image with a mask"}
    assert LesionRanking().requirements(manifest_of()) == {}
    batch = batch_of(torch.zeros(1, 2, 4, 4, dtype=torch.uint8))
    assert LesionRanking().columns(batch, Prediction(), MANIFEST) == {}
    assert LesionRanking().columns(batch, Prediction(lesion_probability=torch.rand(1, 2, 4, 4)), manifest_of()) == {}
    assert found_of(torch.full((2, 2, 4, 4), IGNORE, dtype=torch.uint8), torch.rand(2, 2, 4, 4)) == {}


def test_areas_can_choose_the_best_checkpoint_of_any_recipe():
    selection = parse_selection("mean(aupr_microaneurysms, lesion_auroc)")
    check_selection(selection, MANIFEST)
    assert not selection.lower_is_better
    assert any(isinstance(family, LesionRanking) for family in STANDARD)
    assert all(definition_of(name).text for name in LesionRanking().requirements(MANIFEST))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batches_change_nothing(batch_size):
    mask, probability = realistic(1.0, side=32)
    expected, found = (cases_of(mask, probability, batch_size=size).sums for size in (8, batch_size))
    for name in ("lesion_histogram_0", "lesion_histogram_1"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_intervals_are_those_of_cases_drawn_again():
    mask, probability = realistic(1.0, side=64, share=0.02)
    cases = cases_of(mask, probability, draws=200)
    metric = {"aupr_soft exudates": metrics_of(cases, MANIFEST, families=FAMILIES)["aupr_soft exudates"]}
    drawn = draw_metrics(metric, cases)["aupr_soft exudates"]
    for draw in range(3):
        chosen = np.repeat(np.arange(len(mask)), cases.draws[draw])
        truth, score = mask[chosen, 1], probability[chosen, 1]
        valid = truth != IGNORE
        exact = average_precision_score(truth[valid].numpy(), score[valid].numpy())
        assert drawn[draw] == pytest.approx(exact, abs=2e-3)
    low, high = intervals(cases, MANIFEST, families=FAMILIES)["aupr_soft exudates"]
    assert low == pytest.approx(np.quantile(drawn, 0.025))
    assert low < found_of(mask, probability)["aupr_soft exudates"] < high


def test_histograms_take_megabytes_for_any_number_of_cases():
    mask, probability = realistic(1.0, cases=3, side=16)
    one, three = (cases_of(mask[:n], probability[:n], draws=1000).sums["lesion_histogram_0"] for n in (1, 3))
    assert one.nbytes == three.nbytes == 1001 * 2 * BINS * 8
    assert 4 * one.nbytes < 100e6


def test_notes_state_how_far_the_areas_can_be_from_those_of_the_pixels():
    mask, probability = realistic(1.0, side=64, share=0.02)
    cases = cases_of(mask, probability)
    note = LesionRanking().notes(Columns(cases, MANIFEST))["aupr"]
    stated = re.fullmatch(r"from bins, within (0\.\d{4}) of that from the pixels", note)
    assert stated
    errors = [average_precision_error(f"lesion_histogram_{number}")(cases.all)[0] for number in (0, 1)]
    assert max(errors) <= float(stated[1]) < max(errors) + 1e-4
    assert LesionRanking().notes(Columns(cases_of(mask[:1], probability[:1]), MANIFEST)) == {}


@pytest.mark.parametrize("place", [0, 1, 100, BINS // 2, BINS - 1])
def test_the_lowest_score_of_a_bin_begins_it(place):
    score = lowest_score(place)
    assert lowest_score(BINS // 2) == 0.5
    inside = torch.tensor([score, score * (1 + 1e-5)] if place else [0.0, 1e-9], dtype=torch.float64)
    everywhere = torch.ones(1, 2, dtype=torch.bool)
    histogram = score_histogram(inside[None], everywhere, everywhere)
    assert histogram[0, 1, place] >= 1
    assert histogram[0, 1, max(place - 1, 0) : place + 1].sum() == 2
    assert lowest_score(1) == pytest.approx(1 / (1 + np.exp(LOGIT_RANGE - 2 * LOGIT_RANGE / BINS)))
