"""Every shipped configuration, dry-run on shards made by the commands it names from a tiny layout of raw data."""

import re
import shlex
from pathlib import Path

import pytest

from commands import command_of, load_script
from layouts import RAW
from uml_dist.config_file import read_config
from uml_shards.split import open_split

LAUNCHERS = Path(__file__).parents[2] / "launchers"
CONFIGS = sorted((LAUNCHERS / "configs").glob("*.toml"))
COMMAND = re.compile(r'^# make shards DATASET=(\w+) RAW=path/to/\w+(?: ARGS="([^"]*)")?', re.MULTILINE)


def commands(path: Path) -> list[tuple[str, str]]:
    """The data set and the further arguments of each `make shards` in a configuration's comments."""
    text = path.read_text(encoding="utf-8")
    return COMMAND.findall(text) or ([("phantom", "")] if "`make shards` makes them" in text else [])


@pytest.fixture(scope="module")
def shards_of(tmp_path_factory):
    """Makes shards once, by the command that users type."""
    made = {}
    main = load_script(LAUNCHERS / "shards.py").main

    def make(dataset: str, arguments: str) -> Path:
        folder = made.get((dataset, arguments))
        if folder is None:
            folder = made[dataset, arguments] = tmp_path_factory.mktemp(dataset)
            words = ["make", "--dataset", dataset, "--out", str(folder / "shards"), "--workers", "1", "--quiet"]
            if dataset == "phantom":
                words += ["--count", "train=16", "val=4", "test=4"]
            else:
                assert dataset in RAW, f"no tiny layout of {dataset}: add one to tests/support/layouts.py"
                words += ["--raw", str(RAW[dataset](folder / "raw"))]
            assert main([*words, *shlex.split(arguments)]) == 0
        return folder / "shards"

    return make


@pytest.mark.parametrize(
    ("path", "dataset", "arguments"),
    [pytest.param(path, *found, id=f"{path.stem} {found[1]}".strip()) for path in CONFIGS for found in commands(path)],
)
def test_every_configuration_runs_dry_on_shards_of_its_data_set(
    path, dataset, arguments, shards_of, monkeypatch, capsys
):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    config, shards = read_config(path), shards_of(dataset, arguments)
    run = command_of(load_script(LAUNCHERS / "train.py"), monkeypatch, capsys)
    words = [f"streams.{name}.shards={shards}" for name in config.streams]
    code, printed, error = run("--config", path, "--num_gpus", "1", "--dry-run", *words)
    assert (code, error) == (0, "")
    samples = len(open_split(shards / "train"))
    assert re.search(rf"^stream train: {samples} samples of ", printed, re.MULTILINE)
    assert re.search(rf"^{config.recipe} +[\d,]+ +[\d.]+ MB", printed, re.MULTILINE)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_names_the_command_that_makes_its_shards(path):
    wanted = {f"data/shards/{dataset}" for dataset, _ in commands(path)}
    assert {stream.shards for stream in read_config(path).streams.values()} == wanted
