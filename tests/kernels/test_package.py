"""Tests of the library as users install it: a wheel of `kernels/` with torch, without this project and Triton."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

import uml_kernels
from environment import link_distributions

if os.environ.get("TRITON_INTERPRET", "") == "1":
    pytest.skip("the interpreter is Triton", allow_module_level=True)

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "kernels"
README = (KERNELS / "README.md").read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy to keep the source tree clean."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(KERNELS, folder / "kernels", ignore=shutil.ignore_patterns("bench", "build", "*.egg-info"))
    words = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*words, "-w", str(folder), str(folder / "kernels")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """An environment with torch, the wheel, the tests' requirements, and the ONNX packages if installed."""
    folder = tmp_path_factory.mktemp("environment") / "site"
    link_distributions(folder, ("torch", "pytest", "numpy", "onnx", "onnxscript", "onnxruntime"), without=["triton"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    assert not {"triton", "deepspeed", "uml_dist", "pydantic"} & {path.name for path in folder.iterdir()}
    return folder


def run(site: Path, folder: Path, program: str) -> str:
    """Run a program that can import only from the environment and return its output."""
    program = f"import sys; sys.path.append({str(site)!r})\n{program}"
    words = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_all_files_contain_the_same_version(wheel):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert project["version"] == citation[1] == uml_kernels.__version__
    assert wheel.name == f"uml_kernels-{uml_kernels.__version__}-py3-none-any.whl"


def test_wheel_contains_the_licence_and_requires_only_torch(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (licence,) = (name for name in names if name.endswith("/licenses/LICENSE"))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
        (path,) = (name for name in names if name.endswith("/METADATA"))
        metadata = message_from_string(archive.read(path).decode())
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"uml_kernels"}
    assert "uml_kernels/py.typed" in names
    required = [line.replace('"', "'") for line in metadata.get_all("Requires-Dist")]
    assert [line for line in required if "extra ==" not in line] == ["torch>=2.10"]
    assert "triton>=3.6; platform_system == 'Linux' and extra == 'triton'" in required
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_payload().strip() == README.strip()


def test_readme_has_no_relative_links():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_readme_examples_run_with_only_torch_installed(site, tmp_path):
    examples = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert examples
    program = (
        "import importlib.metadata, uml_kernels\n"
        "print(uml_kernels.__version__, importlib.metadata.version('uml-kernels'), uml_kernels.__file__)\n"
    )
    version, installed, file = run(site, tmp_path, program + "\n".join(examples)).splitlines()[0].split()
    assert version == installed == uml_kernels.__version__
    assert Path(file).parent == site / "uml_kernels"


def test_models_are_exported_with_only_torch_installed(site, tmp_path):
    tests = Path(__file__).parent
    words = [
        "-qx",
        "-rs",
        "-c",
        "/dev/null",
        f"--confcutdir={tests}",
        "--import-mode=importlib",
        "-p",
        "no:cacheprovider",
    ]
    chosen = [*words, "-k", "onnx_gives or stored or trace", str(tests / "test_export.py")]
    program = (
        "import pytest, uml_kernels\n"
        f"assert uml_kernels.__file__.startswith({str(site)!r})\n"
        f"sys.exit(pytest.main({chosen!r}))"
    )
    output = run(site, tmp_path, program)
    assert re.search(r"\d+ passed", output)
    assert "skipped" not in output or not (site / "onnxruntime").exists()
