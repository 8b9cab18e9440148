"""The reference of the configuration: whole, up to date, and made from the schema."""

import re
from pathlib import Path

import pytest

from uml_dist.config.loading import schema_of, valid_keys
from uml_dist.config.reference import COMMAND, fields_without_description, main, reference, shipped_recipes
from uml_dist.config.schema import RunConfig
from uml_dist.errors import UmlError

CONFIGS = Path(__file__).parents[3] / "launchers" / "configs"


def rows(text: str) -> dict[str, list[str]]:
    """Dotted key -> the cells of its row."""
    found, table = {}, ""
    for line in text.splitlines():
        if line.startswith("#"):
            table = line.split("`")[1].strip("[]") + "." if line.startswith("### `") else ""
        elif line.startswith("| `") and line.count(" | ") == 4:
            key, *cells = line[2:-2].split(" | ")
            found[table + key.split("`")[1]] = [cell.strip() for cell in cells]
    return found


def test_the_committed_reference_is_that_of_the_schema():
    committed = (CONFIGS / "README.md").read_text(encoding="utf-8")
    assert committed == reference(CONFIGS), f"launchers/configs/README.md is out of date: run {COMMAND}"


def test_every_key_is_explained():
    assert fields_without_description() == [], "give these keys a Field(description=...)"


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_every_key_that_the_schema_accepts_has_a_row(recipe):
    keys = set(valid_keys(schema_of(recipe)))
    leaves = {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}
    repeated = {key for key in leaves if key.startswith("networks.NAME.optimizer.")}
    assert leaves - repeated <= set(rows(reference(CONFIGS)))


def test_rows_state_type_default_and_range():
    found = rows(reference(CONFIGS))
    assert found["optimizer.momentum"][:3] == ["number", "`0.9`", ">= 0, < 1"]
    assert found["data.workers"][:2] == ['integer or `"auto"`', '`"auto"`']
    assert found["streams.NAME.shards"][:2] == ["string", "required"]
    assert found["train.steps"][:3] == ["integer", "*none*", "> 0, <= 1e+09"]
    assert found["objective.weights.mutual"][3] == "weight of the mutual loss"


def test_defaults_are_those_that_the_schema_fills_in():
    config = RunConfig.model_validate({"recipe": "uml", "streams": {"train": {"shards": "x", "count": 1}}})
    found = rows(reference(CONFIGS))
    assert found["checkpoint.keep"][1] == f"`{config.checkpoint.keep}`"
    assert found["metrics.port"][1] == f"`{config.metrics.port}`"


def test_what_a_resumed_run_may_change_is_marked():
    lines = reference(CONFIGS).splitlines()
    marked = {line.split("`")[1] for line in lines if re.match(r"\| `\w+` \+ \|", line)}
    assert {"stage", "checkpointing", "log_every", "workers", "classification_weights"} <= marked
    assert not {"count", "lr", "profile", "dropout", "anneal"} & marked
    seeds = {line.partition("|")[2].partition("|")[0].strip(): line for line in lines if line.startswith("| `seed`")}
    assert [key for key in seeds if "seed of initial weights" in seeds[key]] == ["`seed`"]


def test_a_configuration_that_does_not_say_what_it_is_is_refused(tmp_path):
    (tmp_path / "silent.toml").write_text('recipe = "uml"\n')
    with pytest.raises(UmlError, match=r"silent\.toml does not say what it is"):
        reference(tmp_path)


def test_the_command_prints_the_reference_or_says_how_to_call_it(capsys):
    assert main([str(CONFIGS)]) == 0
    assert capsys.readouterr().out == reference(CONFIGS)
    assert main([]) == 2
    assert COMMAND in capsys.readouterr().err
