"""launchers/evaluate.py on a run with lesions and grades: thresholds from another split, grades of another scale."""

import csv
import json
import re
from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from commands import command_of, leave_world, load_script
from lesions_and_grades import (
    GradedPhantom,
    LesionPhantom,
    PhantomOfFourGrades,
    PhantomWithoutLeftHalf,
    lesions_and_grades_tree,
    write_phantom,
)
from uml_dist import load_run
from uml_dist.batch import collate
from worldly import train_validating
from worlds import run_world

SCRIPT = Path(__file__).parents[2] / "launchers" / "evaluate.py"

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lesions")
    lesions, grades = write_phantom(LesionPhantom, folder / "lesions"), write_phantom(GradedPhantom, folder / "grades")
    run_world(1, train_validating, lesions_and_grades_tree(lesions, grades), str(folder / "run"))
    return folder / "run"


@pytest.fixture
def evaluated(run, monkeypatch, capsys):
    """Return a function that evaluates the run, and returns what it printed and what it wrote to a folder."""
    leave_world(monkeypatch)
    command = command_of(load_script(SCRIPT), monkeypatch, capsys)

    def evaluate(folder, *words):
        code, printed, error = command("--run", run, *words)
        assert (code, error) == (0, "")
        return printed, json.loads((run / "evaluation" / folder / "metrics.json").read_text())

    evaluate.command = lambda *words: command("--run", run, *words)
    return evaluate


def assert_refused(done, message):
    code, printed, error = done
    assert (code, printed) == (2, "")
    assert re.fullmatch(rf"error: {message}\n", error), error


def test_thresholds_are_chosen_on_another_split_and_stated(evaluated):
    _, default = evaluated("val")
    printed, record = evaluated("val", "--threshold-split", "train")
    thresholds = record["thresholds"]
    assert thresholds["split"] == "train"
    assert list(thresholds["values"]) == ["lesion", "left_half"]
    values = ", ".join(f"{name} {value:.4f}" for name, value in thresholds["values"].items())
    note = f"thresholds: {values}: those of the largest Dice of all pixels of train together\n"
    assert note in printed
    assert "thresholds" not in default
    changed = {name for name, value in record["metrics"].items() if value != default["metrics"].get(name)}
    assert changed
    assert all(name.startswith(("dice", "iou", "mask_")) for name in changed), changed


def test_thresholds_of_the_evaluated_split_or_without_lesions_are_refused(evaluated):
    assert_refused(
        evaluated.command("--threshold-split", "val"),
        "--threshold-split val is the split that is evaluated: choose the thresholds on another one",
    )
    assert_refused(
        evaluated.command("--stream", "grades", "--threshold-split", "train"),
        "--threshold-split train: the masks of phantom are not of lesions that may overlap, so there is no threshold "
        "to choose: leave it out",
    )


def test_a_split_without_a_pixel_of_a_lesion_gives_no_threshold(evaluated, tmp_path):
    shards = write_phantom(PhantomWithoutLeftHalf, tmp_path / "shards")
    code, _, error = evaluated.command("--shards", shards, "--threshold-split", "train")
    assert code == 2
    assert error == (
        "error: --threshold-split train: no mask has a pixel of left_half, so it has no best threshold: "
        "choose another split\n"
    )


def test_shards_are_those_of_the_named_stream(evaluated, tmp_path):
    shards = write_phantom(GradedPhantom, tmp_path / "clinic", seed=5, val=7)
    _, record = evaluated("clinic-grades-val", "--stream", "grades", "--shards", shards)
    assert record["counts"]["labelled"] == 7
    assert_refused(evaluated.command("--stream", "grade"), "there is no stream 'grade': there is lesions, grades")


def test_grades_of_another_scale_are_evaluated_by_the_tasks_that_both_name(evaluated, run, tmp_path):
    shards = write_phantom(PhantomOfFourGrades, tmp_path / "four", seed=3)
    words = ("--stream", "grades", "--shards", shards)
    assert_refused(
        evaluated.command(*words),
        r"the classes of split val are \('none', 'mild', 'moderate', 'severe'\), but those of stream grades are "
        r"\('none', 'mild', 'moderate', 'severe', 'worst'\)",
    )
    _, record = evaluated("four-grades-val", *words, "--tasks-only")
    kinds = [f"{kind}_{task}" for kind in ("auroc", "sensitivity", "specificity") for task in ("referable", "abnormal")]
    assert set(record["metrics"]) == {"auroc_tasks", *kinds}
    assert record["counts"]["labelled"] == 10
    loaded = load_run(run, device="cpu", shards=shards, stream="grades")
    stream = loaded.stream(loaded.open_split("val", "grades", tasks_only=True), "grades")
    batch = collate(stream, [stream.sample(number) for number in range(10)], range(10))
    probability = loaded.predict(batch).image_probability
    assert probability is not None
    for task, least in (("referable", 2), ("abnormal", 1)):
        exact = roc_auc_score(batch.label.numpy() >= least, probability[:, least:].sum(1).numpy())
        assert record["metrics"][f"auroc_{task}"] == pytest.approx(exact)
    with (run / "evaluation" / "four-grades-val" / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["key", "label", "probability_referable", "probability_abnormal"]


def test_a_data_set_without_a_common_task_is_refused(evaluated):
    """The lesions have neither grades nor tasks."""
    assert_refused(
        evaluated.command("--tasks-only"),
        r"split val has no binary task of the training \(none\): it has none; name the same tasks when you make the "
        "shards",
    )
