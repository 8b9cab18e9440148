"""Metrics as functions of weights, against scikit-learn's sample weights and against torchmetrics."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from uml_dist.metrics import weighted
from uml_dist.metrics.weighted import Weighting

SAMPLES, DRAWS = 80, 5


@pytest.fixture
def generator():
    return np.random.default_rng(7)


@pytest.fixture
def weights(generator):
    """All ones, then bootstrap draws, in which some cases are missing."""
    drawn = generator.multinomial(SAMPLES, np.full(SAMPLES, 1 / SAMPLES), DRAWS - 1)
    assert (drawn == 0).any()
    return np.vstack([np.ones(SAMPLES), drawn]).astype(float)


@pytest.fixture
def counted(generator):
    return generator.random(SAMPLES) < 0.8


def expected(weights, counted, score):
    return [score(np.where(counted, row, 0.0)) for row in weights]


@pytest.mark.parametrize("decimals", [1, 8], ids=["ties", "no ties"])
def test_auroc_is_scikit_learn_s(generator, weights, counted, decimals):
    positive, score = generator.random(SAMPLES) < 0.4, np.round(generator.random(SAMPLES), decimals)
    found = weighted.auroc(positive, score, counted)(Weighting(weights))
    assert found == pytest.approx(
        expected(weights, counted, lambda row: roc_auc_score(positive, score, sample_weight=row))
    )


def test_auroc_of_constant_scores_is_a_half_and_of_one_class_none(weights, counted):
    positive = np.arange(SAMPLES) % 2 == 0
    assert weighted.auroc(positive, np.ones(SAMPLES), counted)(Weighting(weights)) == pytest.approx(np.full(DRAWS, 0.5))
    everything = np.ones(SAMPLES, dtype=bool)
    for one_class in (everything, ~everything):
        assert np.isnan(weighted.auroc(one_class, np.arange(SAMPLES) * 1.0, counted)(Weighting(weights))).all()
    assert np.isnan(weighted.auroc(positive, np.ones(SAMPLES), ~everything)(Weighting(weights))).all()


def test_pooled_auroc_is_that_of_the_parts_of_all_cases(generator, weights):
    positives, negatives = generator.integers(0, 4, (2, SAMPLES, 6))

    def area(positives, negatives):
        sums = np.tensordot(weights, np.stack([negatives, positives], 1).astype(float), 1)
        return weighted.pooled_auroc("scores")(Weighting(weights, {"scores": sums}))

    found = area(positives, negatives)
    scores, truth = np.tile(np.arange(6), 2 * SAMPLES), np.repeat([1, 0], 6 * SAMPLES)
    for row, value in zip(weights, found, strict=True):
        parts = np.concatenate([(positives * row[:, None]).ravel(), (negatives * row[:, None]).ravel()])
        assert value == pytest.approx(roc_auc_score(truth, scores, sample_weight=parts))
    assert np.isnan(area(positives * 0, negatives)).all()


@pytest.mark.parametrize("classes", [2, 4])
def test_balanced_accuracy_and_macro_f1_are_scikit_learn_s(generator, weights, counted, classes):
    label, predicted = generator.integers(0, classes, (2, SAMPLES))
    found = weighted.balanced_accuracy(label, predicted, classes, counted)(Weighting(weights))
    assert found == pytest.approx(
        expected(weights, counted, lambda row: balanced_accuracy_score(label, predicted, sample_weight=row))
    )
    found = weighted.macro_f1(label, predicted, classes, counted)(Weighting(weights))
    assert found == pytest.approx(
        expected(weights, counted, lambda row: f1_score(label, predicted, average="macro", sample_weight=row))
    )


def test_a_class_that_does_not_occur_leaves_no_mean_over_the_classes(weights):
    label, predicted = np.zeros(SAMPLES, dtype=np.int64), np.arange(SAMPLES) % 2
    everything = np.ones(SAMPLES, dtype=bool)
    assert np.isnan(weighted.balanced_accuracy(label, predicted, 2, everything)(Weighting(weights))).all()
    assert np.isnan(weighted.macro_f1(label, predicted, 2, everything)(Weighting(weights))).all()


def test_mean_counts_what_counts_even_where_the_rest_is_no_number(generator, weights, counted):
    values = np.where(counted, generator.random(SAMPLES), np.nan)
    found = weighted.mean(values, counted)(Weighting(weights))
    assert found == pytest.approx(
        expected(weights, counted, lambda row: np.average(values[counted], weights=row[counted]))
    )
    assert np.isnan(weighted.mean(values, counted)(Weighting(0 * weights))).all()


def test_means_and_sums_of_metrics_need_all_of_them(weights):
    one, two, none = (weighted.mean(np.full(SAMPLES, v), np.full(SAMPLES, v > 0)) for v in (1.0, 2.0, -1.0))
    assert weighted.mean_of([one, two])(Weighting(weights)) == pytest.approx(np.full(DRAWS, 1.5))
    assert weighted.sum_of([one, two])(Weighting(weights)) == pytest.approx(np.full(DRAWS, 3.0))
    assert np.isnan(weighted.mean_of([one, none])(Weighting(weights))).all()
