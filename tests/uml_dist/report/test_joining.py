"""Which evaluations belong together, and the figures over them."""

import re
from math import sqrt

import pytest

from reported import change_record, make_split, predict_split, scale_metrics, write_run
from uml_dist.errors import UmlError
from uml_dist.report.joining import differing, interval_of_mean, join
from uml_dist.report.records import read_evaluations


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return predict_split(make_split(tmp_path_factory.mktemp("joining") / "test", 24))[0]


@pytest.fixture
def seeds(result, tmp_path):
    """Three runs that differ in the seed."""
    return [write_run(tmp_path / f"seed{number}", result, seed=number) for number in range(3)]


@pytest.fixture
def folds(result, tmp_path):
    """Runs of two folds; of the same cases, which only the pooling cares about."""
    runs = []
    for number in range(2):
        fold = {"folds": 2, "fold": number, "seed": 0}
        name = f"train-fold-{number}-of-2"
        runs.append(write_run(tmp_path / name, result, name, digest=str(number) * 64, split=name, fold=fold))
    return runs


def joined(runs, split=None):
    return join(read_evaluations(runs, split))


def test_seeds_have_a_mean_and_a_t_interval(seeds):
    for run, factor in zip(seeds, (0.9, 1.0, 1.1), strict=True):
        scale_metrics(run, factor)
    found = joined(seeds)
    dice = found.metrics["dice"]
    assert (found.kind, len(dice)) == ("seeds", 3)
    assert dice[0] / dice[1] == pytest.approx(0.9)
    # Student's t with 2 degrees of freedom at 97.5 % is 4.302653, from tables.
    spread = 0.1 * dice[1]
    assert interval_of_mean(dice) == pytest.approx(
        (dice[1] - 4.302653 * spread / sqrt(3), dice[1] + 4.302653 * spread / sqrt(3))
    )
    assert found.warnings == ()


def test_the_interval_of_two_equal_values_is_the_value():
    assert interval_of_mean([0.5, 0.5]) == (0.5, 0.5)


def test_folds_are_in_their_order(folds):
    found = joined(folds[::-1])
    assert found.kind == "folds"
    assert [one.record.fold.fold for one in found.runs if one.record.fold] == [0, 1]


def test_a_metric_that_a_run_lacks_has_no_mean_and_is_named(seeds, result):
    change_record(seeds[1], metrics={name: one for name, one in result.metrics.items() if name != "auroc"})
    found = joined(seeds)
    assert "auroc" not in found.metrics
    assert found.partial == {"auroc": ("seed1",)}


REFUSED = [
    ({"recipe": "ugmcl"}, r"seed0 and \S*seed1 differ in recipe \(uml and ugmcl\)"),
    ({"dataset": "isic2017"}, r"seed0 and \S*seed1 differ in data set \(phantom and isic2017\)"),
    ({"data_digest": "f" * 64}, r"seed0 and \S*seed1 differ in data \(data_digest\) \(000000000000 and ffffffffffff\)"),
    ({"empty_masks": "leave-out"}, r"differ in rule for empty masks \(one and leave-out\)"),
    ({"weights": "averaged"}, r"differ in weights \(trained and averaged\)"),
    ({"tables": {"confusion_matrix": {"rows": ["a", "b"]}}}, r"differ in image classes \(benign, malignant and a, b\)"),
    ({"counts": {"cases": 24, "empty_truth_disc": 0}}, r"differ in mask classes \(lesion and disc\)"),
    (
        {"fold": {"folds": 2, "fold": 0, "seed": 0}},
        r"seed0 has the evaluations test, \S*seed1 has fold: evaluate the same",
    ),
    ({"tables": {"confusion_matrix": {"rows": 5}}}, r"cannot be read: tables.confusion_matrix.rows: "),
    ({"metrics": {"dice": 1e300}}, r"cannot be read: metrics.dice: "),
    ({"metrics": {"dice": None}}, r"seed1/evaluation/test/metrics.json cannot be read: metrics.dice: "),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_runs_that_do_not_belong_together_are_refused_by_name(seeds, changes, message):
    change_record(seeds[1], **changes)
    with pytest.raises(UmlError, match=message) as refused:
        joined(seeds)
    assert "\n" not in str(refused.value)


def fold(folds, number, seed):
    return {"fold": {"folds": folds, "fold": number, "seed": seed}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (fold(3, 1, 0), r"are folds of different draws \(2 folds of seed 0, 3 of seed 0\)"),
        (fold(2, 1, 7), r"are folds of different draws \(2 folds of seed 0, 2 of seed 7\)"),
        (fold(2, 0, 0), r"fold-0-of-2 and \S*fold-1-of-2 are both fold 0"),
        ({"folds_data_digest": "a" * 64}, r"differ in data of which folds were drawn \(none and aaaaaaaaaaaa\)"),
        (fold(2, 5, 0), r"cannot be read: fold: .*fold 5 does not exist: 2 folds are numbered from 0"),
    ],
)
def test_folds_of_different_draws_are_refused(folds, changes, message):
    change_record(folds[1], "train-fold-1-of-2", **changes)
    with pytest.raises(UmlError, match=message):
        joined(folds)


def test_a_missing_fold_is_named(folds):
    for number, run in enumerate(folds):
        change_record(run, run.name, **fold(4, number, 0))
    with pytest.raises(UmlError, match="fold 2, 3 of 4 is missing beside"):
        joined(folds)


def test_runs_that_are_missing_alone_or_named_twice_are_refused(seeds, tmp_path):
    with pytest.raises(UmlError, match="seed0 is named twice: name each run once"):
        joined([seeds[0], seeds[0]])
    with pytest.raises(UmlError, match="at least two runs"):
        joined(seeds[:1])
    with pytest.raises(UmlError, match="none does not exist"):
        joined([seeds[0], tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UmlError, match=r"empty has no evaluation with a metrics\.json: evaluate it"):
        joined([seeds[0], tmp_path / "empty"])


def test_which_evaluation_is_meant_can_be_named(seeds, result, tmp_path):
    for run in seeds:
        write_run(run, result, "val")
        write_run(run, result, "test-ceiling", ceiling=True)
    with pytest.raises(UmlError, match="all runs have the evaluations test, val: name one by --split"):
        joined(seeds)
    assert joined(seeds, "val").first.folder.name == "val"
    with pytest.raises(UmlError, match=re.escape("has no evaluation 'train': it has test, val")):
        joined(seeds, "train")


def test_a_damaged_record_is_one_line(seeds):
    (seeds[1] / "evaluation" / "test" / "metrics.json").write_text("{")
    with pytest.raises(
        UmlError, match=r"seed1/evaluation/test/metrics\.json cannot be read: .*: evaluate the run again"
    ):
        joined(seeds)


def test_evaluations_of_folds_by_other_weights_have_a_name_of_their_own(folds, result):
    for number, run in enumerate(folds):
        write_run(run, result, f"{run.name}-trained", split=run.name, **fold(2, number, 0))
    with pytest.raises(UmlError, match="all runs have the evaluations fold, fold-trained: name one by --split"):
        joined(folds)
    assert joined(folds, "fold-trained").first.folder.name == "train-fold-0-of-2-trained"


def test_runs_of_the_same_name_are_told_apart_by_their_folders(result, tmp_path):
    runs = [write_run(tmp_path / name / "uml", result, seed=place) for place, name in enumerate("ab")]
    assert [one.name for one in joined(runs).runs] == ["a/uml", "b/uml"]


def test_more_than_the_seed_differing_and_equal_seeds_are_warned_of(result, tmp_path):
    runs = [write_run(tmp_path / str(number), result, seed=0, lr=0.001 * (number + 1)) for number in range(2)]
    found = joined(runs)
    assert differing(found.runs) == {"optimizer.lr": ("0.001", "0.002")}
    assert len(found.warnings) == 2
    assert "(optimizer.lr)" in found.warnings[0]
    assert "the same seed 0" in found.warnings[1]
