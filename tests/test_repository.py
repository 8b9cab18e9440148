"""Promises of the repository as a whole: targets, folders, names, sizes."""

import ast
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from commands import load_script

ROOT = Path(__file__).parents[1]
# What people type; a name leaves this list with a major version only.
TARGETS = (
    "help", "install", "demo", "shards", "ablation", "bench", "bench-static", "bench-errors", "bench-micro",
    "bench-step", "bench-windows", "bench-shards", "bench-quality", "tune", "gpu-check", "cluster-check", "monitor",
    "test", "test-quick", "test-kernels", "test-triton", "test-distributed", "test-real", "lint", "format",
    "clean",
)  # fmt: skip
COMPONENTS = ("kernels", "shards", "launchers", "tests")
TEXT = {".py", ".md", ".toml", ".txt", ".cff", ".json", ".yml", ".yaml", ".sh", ""}
LINES = 450


def ours() -> list[Path]:
    """The files that are, or are about to be, under version control."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_help_lists_every_target_and_is_the_default():
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    listed = set(re.findall(r"^  ([a-z-]+) +\S", shown, re.MULTILINE))
    assert set(TARGETS) <= listed


def test_components_are_no_packages():
    assert [name for name in COMPONENTS if (ROOT / name / "__init__.py").exists()] == []


def test_nobody_imports_a_component_by_its_folder():
    offenders = []
    for path in ours():
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            else:
                continue
            offenders += [f"{path.name}: {name}" for name in modules if name.split(".")[0] in COMPONENTS]
    assert offenders == []


def test_no_file_names_a_folder_of_one_machine():
    homes = re.compile(r"(?<![\w.$}])/(?:" + "|".join(("home", "Users", "root", "work")) + r")/\w")
    offenders = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in ours()
        if path.suffix in TEXT
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if homes.search(line)
    ]
    assert offenders == []


def test_files_have_one_subject_and_a_size_to_match():
    written = [path for path in ours() if path.suffix in {".py", ".md", ".toml", ".sh"} or path.name == "Makefile"]
    long = {
        path.name: count for path in written if (count := len(path.read_text(encoding="utf-8").splitlines())) > LINES
    }
    assert long == {}


def test_pinned_versions_are_within_what_the_project_allows():
    tomllib = pytest.importorskip("tomllib")
    requirements = pytest.importorskip("packaging.requirements")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    for requirement in map(requirements.Requirement, wanted):
        assert requirement.name in pinned, f"{requirement.name} is not pinned"
        assert requirement.specifier.contains(pinned[requirement.name]), requirement


def lowest() -> ModuleType:
    return load_script(ROOT / ".ci" / "lowest.py")


@pytest.mark.parametrize("file", ["pyproject.toml", "shards/pyproject.toml", "kernels/pyproject.toml"])
def test_every_direct_dependency_has_one_lower_bound(file):
    requirements = lowest().requirements_of(ROOT / file)
    constraints = lowest().lowest_versions(requirements)
    names = [line.partition("==")[0] for line in constraints]
    assert len(names) == len(set(names)), "two lower bounds"
    everything = lowest().lowest_versions(lowest().requirements_of(ROOT / "pyproject.toml"))
    assert set(constraints) <= set(everything), "a bound differs from that of the project"


def test_lowest_versions_are_constraints_for_pip():
    given = ["b>=1.2", "a.c>=0.19.8,<0.20", "b>=1.2", "t>=3.6; platform_system == 'Linux'"]
    assert lowest().lowest_versions(given) == ["a.c==0.19.8", "b==1.2", "t==3.6; platform_system == 'Linux'"]
    with pytest.raises(ValueError, match="'free' has no lower bound"):
        lowest().lowest_versions(["free"])
