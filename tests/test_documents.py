"""What the documents say is right: every command exists, every example runs, every link leads somewhere."""

import importlib.util
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from packages import EXAMPLE, install_example, write_lesions
from runs import train, uml_tree
from uml_dist.commands.main import COMMANDS
from uml_dist.config.loading import read_config
from uml_dist.models import shipped
from uml_shards.importers import Options, find_importer
from uml_shards.write.verify import verify
from uml_shards.write.writer import write_split
from worlds import run_world

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), ROOT / "kernels" / "README.md", *(ROOT / "shards").glob("*.md")])
DOCUMENTS += [path for name in ("launchers", "uml_dist") for path in sorted((ROOT / name).rglob("*.md"))]
PROGRAMS = {"make", "deepspeed", "python", "torchrun", "uml-dist"}
# Not ours: what torch, DeepSpeed, the system or argparse say.
FOREIGN = {
    *("CUDA out of memory", "CUDA_HOME", "signal", "Bus error", "unable to open", "EADDRINUSE", "address already"),
    *("nan", "unrecognized arguments", "ambiguous option"),
}


def commands() -> list[str]:
    """The indented lines of the documents that start with one of our programs, without their comments."""
    found = []
    for document in DOCUMENTS:
        for line in re.findall(r"^    (\S.*)$", without_fences(document.read_text()), re.MULTILINE):
            program = line.split()[0]
            if program in PROGRAMS:
                found.append(shlex.join(shlex.split(line, comments=True)))
    return sorted(set(found))


def examples() -> list[tuple[str, str]]:
    return [
        (document.relative_to(ROOT).as_posix(), code)
        for document in DOCUMENTS
        for code in re.findall(r"^```python\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
    ]


def without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", without_fences(document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_starts_with_two_commands():
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line][:3]
    assert [line.split("#")[0].strip() for line in lines[1:]] == ["make demo", "make test"]


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_documents_is_understood(command, site, monkeypatch):
    install_example(site)
    words = shlex.split(command)
    monkeypatch.chdir(ROOT)
    if words[0] == "make":
        done = subprocess.run(["make", "--dry-run", *words[1:]], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return
    if "-m" in words:
        assert importlib.util.find_spec(words[words.index("-m") + 1])
        return
    script = words[1] if words[0] == "uml-dist" else next(word for word in words if word.startswith("launchers/"))
    given = words[words.index(script) + 1 :]
    name = Path(script).stem
    if name in COMMANDS:
        program = vars(importlib.import_module(f"uml_dist.commands.{name}"))
    else:
        program = runpy.run_path(script, run_name="launcher")
    options = program["parse"](given)
    if name == "train":
        config = options.config or Path("launchers/configs/uml_phantom.toml")
        if config != Path("mine.toml"):  # the reader's own
            read_config(EXAMPLE / config if config == Path("lesion.toml") else config, options.settings)
    if getattr(options, "dataset", None):
        find_importer(options.dataset)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> Path:
    """Few and small phantom shards, of all splits."""
    folder = tmp_path_factory.mktemp("documents") / "phantom"
    words = ["make", "--quiet", "--size", "32", "--count", "train=24", "val=8", "test=8", "--out", folder]
    subprocess.run([sys.executable, ROOT / "launchers" / "shards.py", *words], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def first_run(phantom) -> Path:
    """The run that the examples read back."""
    run = phantom.parent / "first"
    run_world(1, train, uml_tree(phantom, train__steps=2), str(run), True)
    return run


def prepare(folder: Path, code: str, request: pytest.FixtureRequest) -> None:
    """What an example finds where it runs."""
    if "data/shards/phantom" in code:
        shutil.copytree(request.getfixturevalue("phantom"), folder / "data" / "shards" / "phantom")
    if "FOLDER" in code:  # of the card of the shipped model
        shutil.copytree(shipped("phantom"), folder / "FOLDER")
        Image.new("RGB", (120, 100)).save(folder / "picture.png")
    if "runs/first" in code:
        shutil.copytree(request.getfixturevalue("first_run"), folder / "runs" / "first")


def run_example(document: str, code: str, folder: Path) -> None:
    program = folder / "example.py"
    program.write_text(code)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, f"{document}: {done.stderr}"


@pytest.mark.parametrize(
    ("document", "code"), [one for one in examples() if "runs/" not in one[1]], ids=lambda text: text[:30].strip()
)
def test_an_example_of_the_documents_runs(document, code, tmp_path, request):
    prepare(tmp_path, code, request)
    run_example(document, code, tmp_path)


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("document", "code"), [one for one in examples() if "runs/" in one[1]], ids=lambda text: text[:30].strip()
)
def test_an_example_that_reads_a_run_back_runs(document, code, tmp_path, request):
    prepare(tmp_path, code, request)
    run_example(document, code, tmp_path)


@pytest.mark.parametrize(
    ("document", "language", "file"),
    [
        ("shards/README.md", "python", "lesion_example/importer.py"),
        ("uml_dist/recipes/README.md", "python", "lesion_example/recipe.py"),
        ("uml_dist/recipes/README.md", "toml", "pyproject.toml"),
        ("uml_dist/recipes/README.md", "toml", "lesion.toml"),
    ],
)
def test_a_guide_shows_a_file_of_the_example_package_unchanged(document, language, file):
    assert f"\n```{language}\n{(EXAMPLE / file).read_text()}```\n" in (ROOT / document).read_text()


def test_the_importer_of_the_guide_makes_shards_that_verify_and_parts_no_patient(site, tmp_path):
    install_example(site)
    raw = write_lesions(tmp_path / "raw", patients=16)
    importer = find_importer("lesion_table")(raw, Options(size=32))
    patients = {}
    for split, source in importer.splits().items():
        manifest = write_split(importer, split, source, tmp_path / "shards" / split, quiet=True)
        patients[split] = {key.split("-")[0] for key, _ in source.items}
        assert (manifest.samples, manifest.size) == (len(source.items), (32, 32))
    assert verify(tmp_path / "shards", quiet=True) == []
    assert set(patients) == {"train", "val", "test"}
    assert sum(map(len, patients.values())) == 16
    importer.raw.joinpath("table.csv").write_text("image,patient,label\na,b,unclear\n")
    with pytest.raises(ValueError, match="a has the label 'unclear'"):
        importer.splits()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings_that_are_there(document):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_fences(document.read_text())):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def symptoms() -> list[str]:
    """The first column of the troubleshooting table, as far as it quotes something."""
    table = (ROOT / "launchers" / "troubleshooting.md").read_text()
    cells = re.findall(r"^\| (`.*?) \| ", table, re.MULTILINE)
    return [quoted for cell in cells for quoted in re.findall(r"`([^`]+)`", cell)]


def test_the_troubleshooting_table_quotes_what_people_see():
    assert len(symptoms()) > 30


@pytest.mark.parametrize("symptom", [one for one in symptoms() if not any(word in one for word in FOREIGN)])
def test_a_line_of_the_troubleshooting_table_is_one_that_the_code_prints(symptom):
    sources = [*(ROOT / "uml_dist").rglob("*.py"), *(ROOT / "shards" / "uml_shards").rglob("*.py")]
    # Texts that are continued on the next line of the source are one text.
    texts = [re.sub(r"\"\s*\n\s*f?\"", "", path.read_text()) for path in sources]
    fixed = max(re.split(r"\.\.\.|\d+|[(=:?]|runs/\S+|data/\S+|srun", symptom), key=len).strip()
    assert any(fixed in text for text in texts), fixed
