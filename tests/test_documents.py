"""What the documents tell people to type is right: every command is one that exists, every example runs."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from uml_dist.config_file import read_config
from uml_shards.importers import find_importer

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "shards" / "README.md",
    ROOT / "kernels" / "README.md",
    ROOT / "CONTRIBUTING.md",
)
PROGRAMS = {"make", "deepspeed", "python"}


def commands() -> list[str]:
    """The indented lines of the documents that start with one of our programs, without their comments."""
    found = []
    for document in DOCUMENTS:
        for line in re.findall(r"^    (\S.*)$", document.read_text(), re.MULTILINE):
            words = shlex.split(line, comments=True)
            if words and words[0] in PROGRAMS:
                found.append(shlex.join(words))
    return sorted(set(found))


def examples() -> list[tuple[str, str]]:
    return [
        (document.relative_to(ROOT).as_posix(), code)
        for document in DOCUMENTS
        for code in re.findall(r"^```python\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
    ]


def test_the_readme_starts_with_two_commands():
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line][:3]
    assert [line.split("#")[0].strip() for line in lines[1:]] == ["make demo", "make test"]


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_documents_is_understood(command, monkeypatch):
    words = shlex.split(command)
    monkeypatch.chdir(ROOT)
    if words[0] == "make":
        done = subprocess.run(["make", "--dry-run", *words[1:]], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return
    script = next(word for word in words if word.startswith("launchers/"))
    given = words[words.index(script) + 1 :]
    launcher = runpy.run_path(script, run_name="launcher")
    if script.endswith("train.py"):
        options = launcher["parse"](given)
        read_config(options.config, options.settings)
    else:
        options = launcher["_parser"]().parse_args(given)
        if getattr(options, "dataset", None):
            find_importer(options.dataset)


@pytest.mark.parametrize(("document", "code"), examples(), ids=lambda value: value[:40].replace("\n", " "))
def test_an_example_of_the_documents_runs(document, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "data/shards/phantom" in code:
        shards = ["make", "--quiet", "--size", "32", "--count", "train=24", "val=8", "test=8"]
        subprocess.run([sys.executable, ROOT / "launchers" / "shards.py", *shards], check=True, capture_output=True)
    if "class Mine(Importer)" in code:
        pytest.skip("the shape of an importer, not a program; tests/shards/test_datasets.py makes one")
    program = tmp_path / "example.py"
    program.write_text(code)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True)
    assert done.returncode == 0, f"{document}: {done.stderr}"
