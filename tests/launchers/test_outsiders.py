"""A recipe and an importer of another package work beside the installed wheel, without a checkout."""

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

from environment import link_distributions
from packages import EXAMPLE, write_lesions
from uml_dist.commands.main import COMMANDS

ROOT = Path(__file__).parents[2]
RECIPE, IMPORTER = "lesion_example.recipe:LesionNet", "lesion_example.importer:LesionTable"
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


@pytest.fixture
def run(environment, tmp_path):
    """Runs `uml-dist` of the environment in a folder outside of the checkout, and returns its output."""

    def call_command(*words: str) -> str:
        return call(str(environment / "bin" / "uml-dist"), *words, folder=tmp_path)

    return call_command


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


def test_the_shipped_model_predicts_from_the_wheel_alone(environment, tmp_path):
    program = (
        "import numpy, uml_dist; from uml_dist.models import shipped; "
        "run = uml_dist.load_run(shipped('phantom'), device='cpu'); print(run.path); "
        "print(run.predict_images([numpy.zeros((50, 60, 3), numpy.uint8)]).image_probability.shape)"
    )
    shown = call(str(environment / "bin" / "python"), "-c", program, folder=tmp_path)
    assert str(ROOT) not in shown
    assert shown.splitlines()[-1] == "torch.Size([1, 2])"


def test_every_command_describes_itself(run):
    shown = run("--help")
    assert all(f"\n  {name}" in shown for name in COMMANDS)
    for name in COMMANDS:
        assert "usage:" in run(name, "--help")


@pytest.mark.parametrize(("recipe", "importer"), [("lesion_net", "lesion_table"), (RECIPE, IMPORTER)])
def test_shards_are_made_and_a_run_is_trained_and_evaluated(recipe, importer, run, tmp_path):
    write_lesions(tmp_path / "raw", patients=16)
    shutil.copy(EXAMPLE / "lesion.toml", tmp_path)
    made = run("shards", "make", "--dataset", importer, "--raw", "raw", "--size", "32", "--quiet")
    assert "benign 11, malignant 11" in made
    words = ("--config", "lesion.toml", "--num_gpus", "1", "--cpu", "--run", "first", f"recipe={recipe}")
    run("train", *words, "train.steps=2", "data.size=32")
    assert json.loads((tmp_path / "first" / "status.json").read_text())["status"] == "done"
    assert "accuracy" in run("evaluate", "--run", "first", "--cpu")


def test_the_list_of_data_sets_contains_the_example(run):
    listed = run("shards", "datasets")
    assert "\nlesion_table: skin lesions, benign or malignant" in listed
    assert "\nphantom: " in listed
