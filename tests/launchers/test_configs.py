"""Dry runs of every shipped configuration, on shards that its own commands make from tiny raw data."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from commands import command_of, leave_world, load_script
from layouts import RAW
from published import checkpoint, save
from uml_dist.config.loading import read_config
from uml_dist.config.schema import StreamConfig
from uml_dist.train.setup import prepare
from uml_shards.importers import find_importer
from uml_shards.read.split import open_split

AS_AUTHORS = "--set split=table slice_rule=upward scale=slice"
LAUNCHERS = Path(__file__).parents[2] / "launchers"
CONFIGS = sorted((LAUNCHERS / "configs").glob("*.toml"))
COMMAND = re.compile(r'^# make shards DATASET=(\w+)(?: RAW=path/to/\w+)?(?: ARGS="([^"]*)")?', re.MULTILINE)


def commands(path: Path) -> list[tuple[str, str]]:
    """Return the data set and further arguments of each `make shards` in a configuration's comments."""
    text = path.read_text(encoding="utf-8")
    return COMMAND.findall(text) or ([("phantom", "")] if "`make shards` makes them" in text else [])


def choices(path: Path) -> list[dict[str, str]]:
    """Return the ways to make the shards of a configuration: data set -> further arguments of its command.

    Several commands for one data set are alternatives; those for different data sets belong together.
    """
    found = commands(path)
    if len({dataset for dataset, _ in found}) == 1:
        return [dict([command]) for command in found]
    return [dict(found)]


def data_sets(stream: StreamConfig) -> list[str]:
    """Return the names of the data sets of a stream."""
    return [shards.removeprefix("data/shards/") for shards in (stream.shards, *stream.more_shards)]


@pytest.fixture(scope="module")
def shards_of(tmp_path_factory):
    """Return a function that makes shards once, with the command that users type."""
    made = {}
    main = load_script(LAUNCHERS / "shards.py").main

    def make(dataset: str, arguments: str) -> Path:
        folder = made.get((dataset, arguments))
        if folder is None:
            folder = made[dataset, arguments] = tmp_path_factory.mktemp(dataset)
            words = ["make", "--dataset", dataset, "--out", str(folder / "shards"), "--workers", "1", "--quiet"]
            if not find_importer(dataset).needs_raw:
                words += ["--count", "train=16", "val=4", "test=4"]
            else:
                assert dataset in RAW, f"no tiny layout of {dataset}: add one to tests/support/layouts.py"
                words += ["--raw", str(RAW[dataset](folder / "raw"))]
            assert main([*words, *shlex.split(arguments)]) == 0
        return folder / "shards"

    return make


@pytest.mark.parametrize(
    ("path", "choice"),
    [
        pytest.param(path, choice, id=f"{path.stem} {' '.join(choice.values())}".strip())
        for path in CONFIGS
        for choice in choices(path)
    ],
)
def test_dry_run_of_every_configuration_succeeds_on_shards_of_its_data_sets(
    path, choice, shards_of, monkeypatch, capsys, tmp_path
):
    leave_world(monkeypatch)
    config = read_config(path)
    shards = {dataset: shards_of(dataset, arguments) for dataset, arguments in choice.items()}
    ids, words, expected = tmp_path / "labelled.txt", [], {}
    for name, stream in config.streams.items():
        first, *more = (shards[dataset] for dataset in data_sets(stream))
        words.append(f"streams.{name}.shards={first}")
        if more:
            words.append(f"streams.{name}.more_shards={json.dumps([str(one) for one in more])}")
        if stream.labelled_ids and not ids.exists():
            draw = ["draw", str(first / "train"), "--labelled", "2", "--out", str(ids), "--quiet"]
            assert load_script(LAUNCHERS / "shards.py").main(draw) == 0
        words += [f"streams.{name}.labelled_ids={ids}"] if stream.labelled_ids else []
        samples = sum(len(open_split(one / "train")) for one in (first, *more))
        listed = {"all": samples, "labelled": 2, "unlabelled": samples - 2}
        expected[name] = listed[stream.part] if stream.labelled_ids or stream.part == "all" else r"\d+"
    run = command_of(load_script(LAUNCHERS / "train.py"), monkeypatch, capsys)
    code, printed, error = run("--config", path, "--num_gpus", "1", "--dry-run", *words)
    assert (code, error) == (0, "")
    for name, samples in expected.items():
        assert re.search(rf"^stream {name}: {samples} samples of ", printed, re.MULTILINE)
    assert re.search(r"^\w+ +[\d,]+ +[\d.]+ MB", printed, re.MULTILINE)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_names_the_commands_that_make_its_shards(path):
    made = {dataset for dataset, _ in commands(path)}
    assert {dataset for stream in read_config(path).streams.values() for dataset in data_sets(stream)} == made


def write_published_weights(text: str, folder: Path) -> str:
    """Uncomment the weights in a configuration, and write files with the published keys to their paths."""
    text = re.sub(r"^# (?=\[model\.encoder\]$|\w+_weights = )", "", text, flags=re.MULTILINE)
    encoder = tomllib.loads(text)["model"]["encoder"]
    assert set(encoder) == {"classification_weights", "segmentation_weights"}
    for path in map(Path, encoder.values()):
        (folder / path).parent.mkdir(exist_ok=True)
        kind = "res2net50 of its authors and of timm" if "res2net50" in path.name else "vgg16_bn of torchvision"
        save(checkpoint(kind), folder / path)
    return text


@pytest.fixture
def with_weights(tmp_path, shards_of, monkeypatch):
    """The configuration of I-SPY 1 with published weights, and the setting for shards prepared as by UML's authors."""
    leave_world(monkeypatch)
    path = LAUNCHERS / "configs" / "uml_ispy1.toml"
    assert ("ispy1", AS_AUTHORS) in commands(path)
    config = tmp_path / "run.toml"
    config.write_text(write_published_weights(path.read_text(encoding="utf-8"), tmp_path))
    monkeypatch.chdir(tmp_path)
    return config, f"streams.train.shards={shards_of('ispy1', AS_AUTHORS)}"


def test_dry_run_with_published_weights_succeeds_on_grey_shards(with_weights, monkeypatch, capsys):
    config, shards = with_weights
    run = command_of(load_script(LAUNCHERS / "train.py"), monkeypatch, capsys)
    code, printed, error = run("--config", config, "--num_gpus", "1", "--dry-run", shards)
    assert (code, error) == (0, "")
    assert re.search(r"^stream train: 180 samples of 256 x 256, ", printed, re.MULTILINE)
    (config.parent / "weights" / "vgg16_bn-6c64b313.pth").unlink()
    code, _, error = run("--config", config, "--num_gpus", "1", "--dry-run", shards)
    assert (code, error) == (
        2,
        "error: weights weights/vgg16_bn-6c64b313.pth: there is no such file: download it first\n",
    )


def test_published_weights_initialise_a_network_for_grey_shards(with_weights):
    config, shards = with_weights
    setup = prepare(read_config(config, [shards]), 1)
    assert setup.recipe.manifests["train"].channels == 1
    role = setup.recipe.networks["uml"]
    network = role.build()
    classification, segmentation = role.start(network)
    for line, name in ((classification, "res2net50_v1b_26w_4s-3cf99910"), (segmentation, "vgg16_bn-6c64b313")):
        assert line.startswith(f"weights weights/{name}.pth: not used: ")
        assert line.endswith("; first convolution summed over RGB, as the images are grey")
    # Every tensor of the files is filled with a single number, 1 in the first convolutions.
    for first in (network.classification_encoder.conv1[0], network.segmentation_encoder.features[0]):
        assert first.weight.shape[1] == 1
        assert (first.weight == 3).all()
