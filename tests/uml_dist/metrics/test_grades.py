"""Cohen's kappa of grades, against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from case_rows import cases_of
from manifests import manifest_of
from uml_dist.metrics import weighted
from uml_dist.metrics.families import STANDARD, Grades
from uml_dist.metrics.selection import check_selection, parse_selection
from uml_dist.metrics.summary import draw_metrics, intervals, metric_names, metrics_of, summarise
from uml_dist.metrics.weighted import Weighting

FAMILIES = (*STANDARD, Grades())
NAMES = ("no_dr", "mild", "moderate", "severe", "proliferative")
MANIFEST = manifest_of(classes=NAMES, mask_classes=(), masked=0)
WEIGHTS = {"quadratic_kappa": "quadratic", "kappa": None}


def rows_of(label, predicted):
    probability = 0.1 + 0.5 * np.eye(len(NAMES))[predicted]
    return [
        {
            **{"key": f"case-{number:03d}", "label": float(true), "image_nll": 1.0},
            **{f"probability_{k}": value for k, value in enumerate(row)},
        }
        for number, (true, row) in enumerate(zip(label, probability, strict=True))
    ]


def drawn_grades(samples=150, seed=3):
    generator = np.random.default_rng(seed)
    label = generator.choice(5, samples, p=[0.6, 0.1, 0.2, 0.05, 0.05])
    return label, np.clip(label + generator.choice([-1, 0, 0, 2], samples), 0, 4)


def kappas(label, predicted, **words):
    return {
        name: cohen_kappa_score(label, predicted, weights=kind, labels=range(5), **words)
        for name, kind in WEIGHTS.items()
    }


def found_of(label, predicted):
    found = summarise(cases_of(rows_of(label, predicted)), MANIFEST, families=FAMILIES)
    return {name: value for name, value in found.items() if name in WEIGHTS}


def test_kappas_are_scikit_learn_s():
    label, predicted = drawn_grades()
    found = found_of(label, predicted)
    assert found == pytest.approx(kappas(label, predicted))
    assert 0.1 < found["kappa"] < found["quadratic_kappa"] < 0.9


def test_cases_without_a_label_count_nowhere():
    label, predicted = drawn_grades()
    known = np.arange(len(label)) % 3 > 0
    assert found_of(np.where(known, label, -1), predicted) == pytest.approx(kappas(label[known], predicted[known]))


def test_a_constant_prediction_has_0_and_a_perfect_one_1():
    label, _ = drawn_grades()
    for grade in range(5):
        assert found_of(label, np.full_like(label, grade)) == pytest.approx({"quadratic_kappa": 0.0, "kappa": 0.0})
    assert found_of(label, label) == pytest.approx({"quadratic_kappa": 1.0, "kappa": 1.0})


def test_the_reversed_grades_of_a_uniform_set_have_minus_1():
    label = np.arange(5)
    assert found_of(label, 4 - label)["quadratic_kappa"] == pytest.approx(-1.0)


def test_one_grade_alone_has_no_kappa():
    assert found_of([2, 2, 2], [2, 2, 2]) == {}
    assert found_of([2, 2, 2], [2, 3, 2]) == pytest.approx({"quadratic_kappa": 0.0, "kappa": 0.0})


def test_intervals_are_those_of_cases_drawn_again():
    label, predicted = drawn_grades()
    cases = cases_of(rows_of(label, predicted), draws=100)
    metrics = metrics_of(cases, MANIFEST, families=FAMILIES)
    drawn = draw_metrics({name: metrics[name] for name in WEIGHTS}, cases)
    for number, weight in enumerate(cases.draws[:5]):
        expected = kappas(label, predicted, sample_weight=weight)
        assert {name: values[number] for name, values in drawn.items()} == pytest.approx(expected)
    found = intervals(cases, MANIFEST, families=FAMILIES)
    for name, value in found_of(label, predicted).items():
        assert found[name][0] < value < found[name][1]


def test_recipes_with_grades_can_choose_by_kappa_and_others_have_none():
    check_selection(parse_selection("quadratic_kappa", FAMILIES), MANIFEST, FAMILIES)
    assert set(WEIGHTS) <= set(metric_names(MANIFEST, FAMILIES))
    assert not set(WEIGHTS) & set(metric_names(MANIFEST))
    unlabelled = manifest_of(classes=NAMES, labelled=0)
    assert set(Grades().requirements(unlabelled).values()) == {"an image with a label"}
    assert set(Grades().requirements(manifest_of(classes=("all",))).values()) == {"a second class"}


@pytest.mark.parametrize("classes", [2, 3])
def test_kappa_of_weighted_cases_is_scikit_learn_s(classes):
    generator = np.random.default_rng(classes)
    label, predicted = generator.integers(0, classes, (2, 60))
    weights, counted = generator.integers(0, 4, (3, 60)).astype(float), generator.random(60) < 0.8
    for power, kind in ((0, None), (1, "linear"), (2, "quadratic")):
        found = weighted.kappa(label, predicted, classes, counted, power)(Weighting(weights))
        expected = [cohen_kappa_score(label, predicted, weights=kind, sample_weight=row * counted) for row in weights]
        assert found == pytest.approx(np.array(expected))
