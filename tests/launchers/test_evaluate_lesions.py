"""launchers/evaluate.py on a run with lesions and grades: thresholds from another split, grades of another scale."""

import json
import re
from pathlib import Path

import pytest

from commands import command_of, load_script
from lesions_and_grades import (
    GradedPhantom,
    LesionPhantom,
    PhantomWithoutLeftHalf,
    lesions_and_grades_tree,
    write_phantom,
)
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
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
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
    assert all(name.startswith(("dice", "iou")) for name in changed), changed


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
