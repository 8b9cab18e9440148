"""A recipe and an importer of another package work beside the installed wheel, without a checkout."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
from PIL import Image

from environment import link_distributions
from packages import EXAMPLE, write_lesions
from uml_dist.commands.main import COMMANDS

ROOT = Path(__file__).parents[2]
NAMES = ("lesion_net", "lesion_table")
CLASSES = ("lesion_example.recipe:LesionNet", "lesion_example.importer:LesionTable")
pytestmark = pytest.mark.launch


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> list[Path]:
    """The wheels of this project and of the example package, built from copies to keep the source trees clean."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("wheels")
    project, example = folder / "project", folder / "example"
    unneeded = shutil.ignore_patterns("bench", "build", "__pycache__", "*.egg-info")
    for name in ("uml_dist", "kernels", "shards"):
        shutil.copytree(ROOT / name, project / name, ignore=unneeded)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    shutil.copytree(EXAMPLE, example, ignore=unneeded)
    words = ["wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder)]
    call(sys.executable, "-m", "pip", *words, str(project), str(example))
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheels, tmp_path_factory) -> Path:
    """A virtual environment with both wheels, and with links to the packages that they require."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    link_distributions(site, [re.match(r"[\w.-]+", line)[0] for line in required])
    python = str(folder / "bin" / "python")
    words = ["install", "-q", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check"]
    call(sys.executable, "-m", "pip", "--python", python, *words, *map(str, wheels))
    return folder


@pytest.fixture(scope="module")
def run(environment):
    """Runs `uml-dist` of the environment in a folder outside of the checkout, and returns its output."""

    def call_command(folder: Path, *words: str) -> str:
        return call(str(environment / "bin" / "uml-dist"), *words, folder=folder)

    return call_command


@pytest.fixture(scope="module")
def trained(request, run, tmp_path_factory) -> Path:
    """A folder with raw images, shards and a run, of a recipe and an importer by the given names."""
    recipe, importer = request.param
    folder = tmp_path_factory.mktemp("trained")
    write_lesions(folder / "raw", patients=16)
    shutil.copy(EXAMPLE / "lesion.toml", folder)
    made = run(folder, "shards", "make", "--dataset", importer, "--raw", "raw", "--size", "32", "--quiet")
    assert "benign 11, malignant 11" in made
    words = ("--config", "lesion.toml", "--num_gpus", "1", "--cpu", "--run", "first", f"recipe={recipe}")
    run(folder, "train", *words, "train.steps=2", "data.size=32")
    return folder


def call(*words: str, folder: Path | None = None) -> str:
    """Run a program that sees no module of the checkout, and return its output."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder, env=variables)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_all_packages_are_imported_from_the_environment(environment, tmp_path):
    names = ("uml_dist", "uml_kernels", "uml_shards", "lesion_example")
    program = f"import {', '.join(names)}, sys; print(*({', '.join(names)}), *sys.path, sep='\\n')"
    shown = call(str(environment / "bin" / "python"), "-c", program, folder=tmp_path)
    assert str(ROOT) not in shown
    assert shown.count(f"{environment}/lib") >= len(names)


def test_the_shipped_model_predicts_a_picture_from_the_wheel_alone(run, tmp_path):
    Image.new("RGB", (60, 50), "tan").save(tmp_path / "picture.png")
    run(tmp_path, "predict", "picture.png", "--model", "phantom", "--out", "predictions", "--cpu")
    (row,) = csv.DictReader((tmp_path / "predictions" / "table.csv").open())
    assert float(row["probability_benign"]) + float(row["probability_malignant"]) == pytest.approx(1, abs=1e-4)
    assert Image.open(tmp_path / "predictions" / "masks" / "picture.png").size == (60, 50)


def test_every_command_describes_itself(run, tmp_path):
    shown = run(tmp_path, "--help")
    assert all(f"\n  {name}" in shown for name in COMMANDS)
    for name in COMMANDS:
        assert "usage:" in run(tmp_path, name, "--help")


@pytest.mark.parametrize("trained", [NAMES, CLASSES], indirect=True)
def test_shards_are_made_and_a_run_is_trained_and_evaluated(trained, run):
    assert json.loads((trained / "first" / "status.json").read_text())["status"] == "done"
    assert "accuracy" in run(trained, "evaluate", "--run", "first", "--cpu")


@pytest.mark.parametrize("trained", [CLASSES], indirect=True)
def test_an_export_predicts_without_its_run_and_shards(trained, run, tmp_path):
    run(trained, "checkpoint", "export", "--run", "first", "--out", str(tmp_path / "passed"))
    image = trained / "raw" / "images" / "p03-1.png"
    run(tmp_path, "predict", str(image), "--run", "passed", "--out", "predictions", "--cpu")
    (row,) = csv.DictReader((tmp_path / "predictions" / "table.csv").open())
    assert float(row["probability_benign"]) + float(row["probability_malignant"]) == pytest.approx(1, abs=1e-4)


def test_the_list_of_data_sets_contains_the_example(run, tmp_path):
    listed = run(tmp_path, "shards", "datasets")
    assert "\nlesion_table: skin lesions, benign or malignant" in listed
    assert "\nphantom: " in listed
