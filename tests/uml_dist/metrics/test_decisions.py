"""Decisions for a class and for binary tasks, against scikit-learn and the scoring of the ISIC challenges."""

import json

import numpy as np
import pandas as pd
import pytest
from isic_challenge_scoring.classification import ClassificationMetric, ClassificationScore
from sklearn.metrics import confusion_matrix, f1_score, recall_score

from case_rows import cases_of
from manifests import manifest_of
from uml_dist.evaluate import Evaluation
from uml_dist.evaluate.results import metrics_record, printed_table
from uml_dist.metrics import weighted
from uml_dist.metrics.columns import Columns
from uml_dist.metrics.families import STANDARD, Decisions
from uml_dist.metrics.families.decisions import MOST_CLASSES
from uml_dist.metrics.summary import draw_metrics, formable, metrics_of, summarise
from uml_dist.metrics.weighted import Weighting

TWO = manifest_of(masked=0, tasks={"malignant": (1,)})
FOUR = manifest_of(classes=("a", "b", "c", "d"), masked=0, tasks={"late": (2, 3), "first": (0,)})


def drawn(manifest, samples=80, seed=0):
    generator = np.random.default_rng(seed)
    probability = generator.dirichlet(np.ones(len(manifest.classes)), samples)
    label = np.array([generator.choice(len(row), p=row) for row in probability])
    return label, probability


def rows_of(label, probability):
    return [
        {
            **{"key": f"{number:04d}", "label": float(k), "image_nll": 1.0 if k >= 0 else np.nan},
            **{f"probability_{c}": value for c, value in enumerate(row)},
        }
        for number, (k, row) in enumerate(zip(label, probability, strict=True))
    ]


def found_of(label, probability, manifest):
    return summarise(cases_of(rows_of(label, probability)), manifest)


def one_against_rest(label, predicted, classes):
    sensitivity = [recall_score(label == k, predicted == k) for k in range(classes)]
    specificity = [recall_score(label != k, predicted != k) for k in range(classes)]
    return sensitivity, specificity


def test_of_two_classes_the_second_is_positive():
    label, probability = drawn(TWO)
    found, predicted = found_of(label, probability, TWO), probability.argmax(1)
    assert found["sensitivity"] == pytest.approx(recall_score(label, predicted))
    assert found["specificity"] == pytest.approx(recall_score(label, predicted, pos_label=0))
    assert found["sensitivity_malignant"] == found["sensitivity"]
    assert found["specificity_malignant"] == found["specificity"]
    assert not any(name.startswith("class_") for name in found)


def test_each_of_more_classes_is_held_against_the_rest():
    label, probability = drawn(FOUR)
    found = found_of(label, probability, FOUR)
    for kind, values in zip(
        ("sensitivity", "specificity"), one_against_rest(label, probability.argmax(1), 4), strict=True
    ):
        assert [found[f"class_{kind}_{name}"] for name in FOUR.classes] == pytest.approx(values)
        assert found[kind] == pytest.approx(np.mean(values))


@pytest.mark.parametrize("manifest", [TWO, FOUR], ids=["two", "four"])
def test_weighted_f1_is_scikit_learn_s_also_where_a_class_does_not_occur(manifest):
    label, probability = drawn(manifest)
    for kept in (label >= 0, label != 1, label == 0):
        some = label[kept], probability[kept]
        expected = f1_score(some[0], some[1].argmax(1), average="weighted")
        assert found_of(*some, manifest)["weighted_f1"] == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore::Warning:isic_challenge_scoring")
def test_tasks_are_scored_as_in_the_isic_challenges():
    label, probability = drawn(FOUR)
    found = found_of(label, probability, FOUR)
    truth = pd.DataFrame({name: np.isin(label, of).astype(float) for name, of in FOUR.tasks.items()})
    said = pd.DataFrame({name: probability[:, of].sum(1) for name, of in FOUR.tasks.items()})
    weights = pd.DataFrame({"score_weight": np.ones(len(label)), "validation_weight": np.ones(len(label))})
    official = ClassificationScore(truth, said, weights, ClassificationMetric.AUC).per_category
    for name in FOUR.tasks:
        for ours, theirs in (("sensitivity", "sensitivity"), ("specificity", "specificity"), ("auroc", "auc")):
            assert found[f"{ours}_{name}"] == pytest.approx(official.loc[name, theirs])


def test_equal_probabilities_are_for_the_first_class():
    label, even = np.array([0, 1, 1]), np.full((3, 2), 0.5)
    found = found_of(label, even, TWO)
    assert (found["sensitivity"], found["specificity"]) == (0.0, 1.0)
    assert (found["sensitivity_malignant"], found["specificity_malignant"]) == (0.0, 1.0)
    assert found["weighted_f1"] == pytest.approx(f1_score(label, even.argmax(1), average="weighted"))


def test_what_does_not_occur_has_no_figure():
    label, probability = np.ones(3, dtype=int), np.array([[0.2, 0.8], [0.9, 0.1], [0.4, 0.6]])
    found = found_of(label, probability, TWO)
    assert found["sensitivity"] == found["sensitivity_malignant"] == pytest.approx(2 / 3)
    assert not {"specificity", "specificity_malignant"} & found.keys()
    lacks = formable(manifest_of(masked=0, tasks={"malignant": (1,)}, class_counts=(0, 8)))
    assert lacks["specificity"] == lacks["specificity_malignant"] == "an image of benign"
    assert lacks["sensitivity"] == lacks["sensitivity_malignant"] == ""
    some = formable(manifest_of(classes=FOUR.classes, masked=0, class_counts=(4, 4, 0, 0)))
    assert some["class_specificity_a"] == some["class_specificity_c"] == some["class_sensitivity_b"] == ""
    assert some["class_sensitivity_c"] == some["sensitivity"] == "an image of c"
    assert summarise(cases_of(rows_of([-1, -1], [[0.5, 0.5]] * 2)), TWO) == {}


def test_cases_without_a_label_count_nowhere():
    label, probability = drawn(FOUR)
    known = np.arange(len(label)) % 4 > 0
    some = found_of(np.where(known, label, -1), probability, FOUR)
    assert some == pytest.approx(found_of(label[known], probability[known], FOUR))


def test_draws_are_those_of_weighted_cases():
    label, probability = drawn(FOUR)
    cases, predicted = cases_of(rows_of(label, probability), draws=5), probability.argmax(1)
    found = draw_metrics(metrics_of(cases, FOUR), cases)
    for number, weight in enumerate(cases.draws):
        words = {"sample_weight": weight}
        assert found["weighted_f1"][number] == pytest.approx(f1_score(label, predicted, average="weighted", **words))
        assert found["class_sensitivity_c"][number] == pytest.approx(recall_score(label == 2, predicted == 2, **words))
        assert found["class_specificity_c"][number] == pytest.approx(recall_score(label != 2, predicted != 2, **words))


def test_weighted_f1_of_counted_cases_is_scikit_learn_s():
    generator = np.random.default_rng(0)
    label, predicted = generator.integers(0, 3, (2, 60))
    weights, counted = generator.integers(0, 4, (3, 60)).astype(float), generator.random(60) < 0.8
    found = weighted.weighted_f1(label, predicted, 3, counted)(Weighting(weights))
    expected = [f1_score(label, predicted, average="weighted", sample_weight=row * counted) for row in weights]
    assert found == pytest.approx(np.array(expected))


def record_of(label, probability, manifest):
    cases = cases_of(rows_of(label, probability))
    return metrics_record(Evaluation(manifest, "one", STANDARD, summarise(cases, manifest), cases, ()))


def test_confusion_matrix_is_scikit_learn_s_in_the_record_and_printed():
    label, probability = drawn(FOUR)
    label[:3] = -1
    record = record_of(label, probability, FOUR)
    table = json.loads(json.dumps(record))["tables"]["confusion_matrix"]
    assert table["rows"] == table["columns"] == list(FOUR.classes)
    expected = confusion_matrix(label[3:], probability[3:].argmax(1), labels=range(4))
    assert table["values"] == expected.tolist()
    lines = printed_table(record).splitlines()
    start = lines.index("confusion matrix: cases by label (rows) and predicted class (columns)")
    assert lines[start + 1].split() == list(FOUR.classes)
    assert [line.split() for line in lines[start + 2 : start + 6]] == [
        [name, *map(str, row)] for name, row in zip(FOUR.classes, expected.tolist(), strict=True)
    ]


def test_long_names_are_shortened_in_print_alone():
    names = ("x" * 90, "benign or = 1, 2")
    record = record_of(np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]), manifest_of(classes=names, masked=0))
    assert record["tables"]["confusion_matrix"]["rows"] == names
    printed = printed_table(record)
    assert f"\n{'x' * 7}…{'x' * 8}" in printed
    assert names[0] not in printed


def test_very_many_classes_and_unlabelled_cases_have_no_confusion_matrix():
    many = manifest_of(classes=tuple(f"c{k}" for k in range(MOST_CLASSES + 1)), masked=0)
    label, probability = drawn(many, samples=5)
    assert Decisions().counts(Columns(cases_of(rows_of(label, probability)), many)) == {}
    assert "tables" in record_of(np.array([-1]), np.array([[0.5, 0.5]]), TWO)
    assert record_of(np.array([-1]), np.array([[0.5, 0.5]]), TWO)["tables"] == {}
    thirteen = manifest_of(classes=many.classes[:13], masked=0)
    record = record_of(*drawn(thirteen), thirteen)
    assert len(record["tables"]["confusion_matrix"]["values"]) == 13
    assert "confusion matrix" not in printed_table(record)
