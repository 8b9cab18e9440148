"""Lesions on one stream's data, grades on another's: a validation, metrics and a best checkpoint for each."""

import json

import pytest

from lesions_and_grades import STEPS, GradedPhantom, LesionPhantom, lesions_and_grades_tree, write_phantom
from uml_dist.run.checkpoint_folder import step_of
from worldly import train_validating
from worlds import run_world

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same training on one rank, with a validation after each step, and on two, with one at the end."""
    folder = tmp_path_factory.mktemp("two_tasks")
    lesions, grades = write_phantom(LesionPhantom, folder / "lesions"), write_phantom(GradedPhantom, folder / "grades")
    for ranks, every in ((1, 1), (2, STEPS)):
        tree = lesions_and_grades_tree(lesions, grades, every)
        run_world(ranks, train_validating, tree, str(folder / f"run_{ranks}"))
    return [folder / f"run_{ranks}" for ranks in (1, 2)]


def validations_of(run, prefix):
    """Return the figures of the validations by step."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {one["step"]: one for one in records if f"{prefix}loss" in one}


def test_each_validation_chooses_its_own_best_checkpoint(runs):
    lesions, grades = (validations_of(runs[0], prefix) for prefix in ("validation_", "validation_grades."))
    assert list(lesions) == list(grades) == list(range(1, STEPS + 1))
    folder = runs[0] / "checkpoints"
    best, best_grades = (step_of(folder / (folder / name).read_text().strip()) for name in ("best", "best-grades"))
    assert best == max(lesions, key=lambda step: lesions[step]["validation_aupr"])
    assert best_grades == max(grades, key=lambda step: grades[step]["validation_grades.quadratic_kappa"])
    assert best != best_grades, "these data do not tell the two checkpoints apart"


def test_each_validation_has_the_metrics_of_its_own_task(runs):
    lesions, grades = (validations_of(runs[0], prefix)[STEPS] for prefix in ("validation_", "validation_grades."))
    assert {"validation_aupr_left_half", "validation_lesion_auroc", "validation_dice_lesion"} <= set(lesions)
    assert {"validation_grades.kappa", "validation_grades.auroc_referable"} <= set(grades)
    assert not any("kappa" in name or "accuracy" in name for name in lesions)
    assert not any("aupr" in name or "dice" in name for name in grades)


@pytest.mark.parametrize("prefix", ["validation_", "validation_grades."])
def test_two_ranks_give_the_figures_of_one(runs, prefix):
    alone, together = (
        {name: value for name, value in validations_of(run, prefix)[STEPS].items() if name.startswith(prefix)}
        for run in runs
    )
    assert together == pytest.approx(alone, rel=1e-4, abs=1e-5)
