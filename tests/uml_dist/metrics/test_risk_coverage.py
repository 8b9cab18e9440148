"""Risk and coverage, against the definitions written out and the formulas of torch-uncertainty."""

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from uml_dist.metrics.risk_coverage import COVERAGE, RiskCoverage
from uml_dist.metrics.weighted import Weighting


def figures(risk, score, weights=None, counted=None):
    risk, score = np.asarray(risk, dtype=float), np.asarray(score, dtype=float)
    counted = np.ones(len(risk), dtype=bool) if counted is None else counted
    curve = RiskCoverage(risk, score, counted)
    cases = Weighting(np.ones((1, len(risk))) if weights is None else np.asarray(weights, dtype=float))
    return np.stack([curve.augrc(cases), curve.aurc(cases), curve.risk_at_coverage(cases)])


def by_hand(risk):
    """The three figures of risks in the order of the uncertainty."""
    number = len(risk)
    sums = np.array([sum(risk[:k]) for k in range(number + 1)])
    augrc = np.trapezoid(sums / number, np.arange(number + 1) / number)
    aurc = np.mean([sums[k] / k for k in range(1, number + 1)])
    kept = COVERAGE * number
    return augrc, aurc, np.interp(kept, np.arange(number + 1), sums) / kept


def drawn(samples=101, seed=0, binary=True):
    generator = np.random.default_rng(seed)
    score = generator.random(samples)
    risk = generator.random(samples)
    return (risk < score).astype(float) if binary else risk * score, score


@pytest.mark.parametrize("binary", [True, False])
def test_distinct_scores_give_the_definitions(binary):
    risk, score = drawn(binary=binary)
    expected = by_hand(risk[np.argsort(score)])
    assert figures(risk, score)[:, 0] == pytest.approx(expected)
    assert 0 < expected[0] < expected[1] < expected[2] < risk.mean()


def test_areas_are_those_of_torch_uncertainty_but_for_its_cut_at_the_first_case():
    """Its AURC and AUGRC are trapezoids over coverages from 1/n on, divided by 1 - 1/n."""
    risk, score = drawn(binary=False)
    number, ordered = len(risk), risk[np.argsort(score)]
    coverage = np.arange(1, number + 1) / number
    rates = np.cumsum(ordered) / np.arange(1, number + 1)
    theirs = np.trapezoid(coverage * rates, coverage), np.trapezoid(rates, coverage)
    augrc, aurc, _ = figures(risk, score)[:, 0]
    assert augrc == pytest.approx(theirs[0] + ordered[0] / (2 * number**2))
    assert aurc == pytest.approx(theirs[1] + (rates[0] + rates[-1]) / (2 * number))


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_augrc_of_errors_is_the_papers_formula_from_accuracy_and_auroc(levels):
    """Equation 10 of arXiv 2407.01032: (1 - AUROC) acc (1 - acc) + (1 - acc)^2 / 2; equal scores count half."""
    wrong, score = drawn(seed=1)
    score = np.floor(score * levels)
    accuracy, area = 1 - wrong.mean(), roc_auc_score(wrong, score)
    expected = (1 - area) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2
    assert figures(wrong, score)[0, 0] == pytest.approx(expected)


def test_equal_scores_give_the_mean_over_all_orders_of_them():
    risk, score = np.array([0.3, 1.0, 0.0, 0.5, 0.9, 0.2, 0.7]), np.array([1, 0, 1, 2, 1, 2, 1])
    groups = [np.flatnonzero(score == level) for level in range(3)]
    orders = [[*groups[0], *middle, *last] for middle in permutations(groups[1]) for last in permutations(groups[2])]
    expected = np.mean([by_hand(risk[order]) for order in orders], axis=0)
    assert figures(risk, score)[:, 0] == pytest.approx(expected)


def test_a_constant_score_knows_nothing_and_the_risk_itself_everything():
    risk, score = drawn(binary=False)
    augrc, aurc, kept = figures(risk, np.zeros_like(risk))[:, 0]
    assert (augrc, aurc, kept) == pytest.approx((risk.mean() / 2, risk.mean(), risk.mean()))
    best, found = figures(risk, risk)[:, 0], figures(risk, score)[:, 0]
    assert (best < found).all()
    assert (found < (augrc, aurc, kept)).all()
    assert (figures(risk, -risk)[:, 0] > (augrc, aurc, kept)).all()


@pytest.mark.parametrize(("risk", "expected"), [(0.0, (0, 0, 0)), (1.0, (0.5, 1, 1))])
def test_no_error_and_nothing_but_errors(risk, expected):
    assert figures(np.full(9, risk), np.arange(9))[:, 0] == pytest.approx(expected)
    assert figures([risk], [0.3])[:, 0] == pytest.approx(expected)


def test_no_case_has_no_figure():
    assert np.isnan(figures([], [])).all()
    assert np.isnan(figures([0.0, 1.0], [1, 2], counted=np.zeros(2, dtype=bool))).all()
    assert np.isnan(figures([0.0, 1.0], [1, 2], weights=[[0, 0]])).all()


@pytest.mark.parametrize("levels", [7, 1000])
def test_weights_are_repeated_cases(levels):
    risk, score = drawn(samples=40, binary=False)
    score = np.floor(score * levels)
    generator = np.random.default_rng(2)
    weights, counted = generator.integers(0, 4, (6, 40)), generator.random(40) < 0.8
    found = figures(risk, score, weights, counted)
    for number, row in enumerate(weights):
        repeated = np.repeat(np.arange(40), row * counted)
        assert found[:, number] == pytest.approx(figures(risk[repeated], score[repeated])[:, 0])


def test_each_weighting_is_formed_anew():
    risk, score = drawn(samples=20)
    curve = RiskCoverage(risk, score, np.ones(20, dtype=bool))
    for weights in np.random.default_rng(0).integers(0, 3, (4, 1, 20)).astype(float):
        assert curve.aurc(Weighting(weights)) == pytest.approx(figures(risk, score, weights)[1])
