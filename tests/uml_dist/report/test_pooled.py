"""Metrics over the cases of all folds, formed from their cases.csv."""

import csv

import numpy as np
import pytest

from reported import change_record, make_split, predict_split, write_run
from uml_dist.errors import UmlError
from uml_dist.evaluate import summarise
from uml_dist.metrics.cases import Cases
from uml_dist.report.joining import join
from uml_dist.report.pooled import pool
from uml_dist.report.records import read_evaluations

FROM_PIXELS = {
    "pixel_ece",
    "pixel_ece_border",
    "pixel_error_auroc_vacuity",
    "pixel_error_auroc_entropy",
    "dice_present",
}
OF_TASKS = {"auroc_tasks", "auroc_malignant", "sensitivity_malignant", "specificity_malignant"}


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory):
    """Two evaluations of different images, some without label or mask."""
    folder = tmp_path_factory.mktemp("pooled")
    return [predict_split(make_split(folder / name, 30, gaps=True))[0] for name in ("val", "test")]


@pytest.fixture
def runs(evaluations, tmp_path):
    return [
        write_run(
            tmp_path / f"fold{number}",
            result,
            f"train-fold-{number}-of-2",
            fold={"folds": 2, "fold": number, "seed": 0},
            split=f"train-fold-{number}-of-2",
        )
        for number, result in enumerate(evaluations)
    ]


def pooled(runs):
    joined = join(read_evaluations(runs, None))
    return pool(joined.runs, list(joined.metrics))


def together(evaluations):
    """The cases of all evaluations as one."""
    cases = [one.cases for one in evaluations]
    columns = {name: np.concatenate([one.columns[name] for one in cases]) for name in cases[0].columns}
    sums = {name: sum(one.sums[name][:1] for one in cases) for name in cases[0].sums}
    return Cases(sum((one.keys for one in cases), ()), columns, sums)


def test_pooled_metrics_are_those_of_all_cases_together(evaluations, runs):
    found = pooled(runs)
    expected = summarise(together(evaluations), evaluations[0].manifest)
    assert set(expected) - set(found.metrics) == FROM_PIXELS | OF_TASKS
    assert found.metrics == pytest.approx({name: expected[name] for name in found.metrics}, rel=1e-4, abs=1e-6)
    assert (found.cases, found.patients) == (60, 0)
    # They are not the means of the folds' values.
    means = {name: np.mean([one.metrics[name] for one in evaluations]) for name in ("auroc", "image_augrc_entropy")}
    assert all(abs(found.metrics[name] - mean) > 1e-4 for name, mean in means.items())


def test_intervals_are_of_the_cases_and_contain_the_value(runs):
    found = pooled(runs)
    assert {"dice", "auroc", "accuracy"} <= set(found.intervals)
    for name in ("dice", "auroc", "accuracy", "image_ece"):
        low, high = found.intervals[name]
        assert low <= found.metrics[name] <= high
        assert low < high


def test_a_figure_that_cases_csv_does_not_reproduce_is_not_pooled(evaluations, runs):
    change_record(runs[1], "train-fold-1-of-2", metrics=evaluations[1].metrics | {"dice": 0.123, "accuracy": 0.321})
    found = pooled(runs)
    assert not {"dice", "accuracy"} & set(found.metrics)
    assert "auroc" in found.metrics


def rewrite(run, change):
    path = next(run.glob("evaluation/*/cases.csv"))
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(change(rows))


def test_patients_are_drawn_with_all_their_cases_and_must_be_in_one_fold(runs):
    def with_patients(start):
        return lambda rows: [
            [*rows[0], "patient"],
            *([*row, f"p{start + place // 5}"] for place, row in enumerate(rows[1:])),
        ]

    rewrite(runs[0], with_patients(0))
    rewrite(runs[1], with_patients(6))
    assert pooled(runs).patients == 12
    rewrite(runs[1], lambda rows: [rows[0], *([*row[:-1], "p5"] for row in rows[1:])])
    with pytest.raises(UmlError, match=r"fold0 and .*fold1 have the patient 'p5' in common: folds must not overlap"):
        pooled(runs)


def test_folds_that_overlap_are_refused(runs):
    keys = []
    rewrite(runs[0], lambda rows: keys.extend(row[0] for row in rows[1:]) or rows)
    rewrite(runs[1], lambda rows: [rows[0], [keys[0], *rows[1][1:]], *rows[2:]])
    with pytest.raises(UmlError, match=rf"fold0 and .*fold1 have the case '{keys[0]}' in common"):
        pooled(runs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:1], "is not a table of cases"),
        (lambda rows: [["name", *rows[0][1:]], *rows[1:]], "is not a table of cases"),
        (lambda rows: [rows[0], rows[1][:-1], *rows[2:]], "is not a table of cases"),
        (lambda rows: [[*rows[0], "more"], *([*row, "1"] for row in rows[1:])], "have different columns"),
        (lambda rows: [rows[0], [rows[1][0], *["x"] * (len(rows[0]) - 1)], *rows[2:]], "could not convert string"),
    ],
)
def test_tables_that_are_none_are_one_line(runs, change, message):
    rewrite(runs[1], change)
    with pytest.raises(UmlError, match=message) as refused:
        pooled(runs)
    assert "\n" not in str(refused.value)
