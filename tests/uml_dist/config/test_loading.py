"""The configuration: what is refused is refused in one line that names the way out."""

import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from pydantic import BaseModel

from damage import damaged
from uml_dist.config.loading import apply_overrides, differences, dump, read_config, schema_of, valid_keys, validate
from uml_dist.config.reference import range_of
from uml_dist.config.schema import table_of
from uml_dist.errors import UmlError

TREE = {"recipe": "uml", "streams": {"train": {"shards": "data/shards/phantom", "count": 16}}, "train": {"steps": 10}}
CONFIGS = sorted((Path(__file__).parents[3] / "launchers" / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid_and_survives_being_dumped(path, tmp_path):
    config = read_config(path)
    (tmp_path / "again.toml").write_text(dump(config))
    assert read_config(tmp_path / "again.toml") == config


def test_words_of_the_command_line_win_over_the_file(tmp_path):
    (tmp_path / "run.toml").write_text(dump(validate(TREE, "tree")))
    config = read_config(tmp_path / "run.toml", ["train.steps=7", "zero.stage=3", "data.augment=none", "train.seed=4"])
    assert (config.train.steps, config.zero.stage, config.data.augment, config.train.seed) == (7, 3, "none", 4)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.stepz=3", "unknown key train.stepz: did you mean train.steps?"),
        ("trian.steps=3", "unknown key trian: did you mean train?"),
        ("streams.train.cuont=3", "unknown key streams.train.cuont: did you mean streams.train.count?"),
        ("train.lr=0.1", "unknown key train.lr: did you mean optimizer.lr?"),
        ("networks.uml.optimizer.momentun=0", "networks.uml.optimizer.momentum?"),
        ("validations.a/b.best=dice", "validations: the name 'a/b' becomes a part of file names"),
        ("zero.stage=4", "zero.stage = 4: Input should be 0, 1, 2 or 3"),
        ("streams.train.count=0", "greater than 0"),
        ("train.epochs=3", "give steps or epochs, not both"),
        ("deepspeed.gradient_clipping=1.0", "deepspeed.gradient_clipping is derived: set optimizer.clip instead"),
        ("recipe=umi", "unknown recipe 'umi': did you mean uml? "),
        ("train.steps", "write table.key=value"),
        (f"{'a.' * 100}b=1", "names a table more than 16 levels deep"),
        (f"deepspeed.a={'[' * 30}{']' * 30}", "cannot be read: tables and lists are nested more than 16 levels deep"),
        (f"deepspeed.a={'[' * 9999}", "cannot be read: "),
        (f"train.steps={'9' * 5000}", "cannot be read: Exceeds the limit"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_the_right_one(word, message):
    with pytest.raises(UmlError) as raised:
        validate(apply_overrides(TREE, [word]), "run.toml")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optimizer.lr=inf", "optimizer.lr = inf: Input should be a finite number"),
        ("optimizer.lr=nan", "optimizer.lr = nan: Input should be a finite number"),
        ("optimizer.lr=1e9", "optimizer.lr = 1000000000.0: Input should be less than or equal to 100"),
        ("optimizer.betas=[nan, 0.9]", "optimizer.betas.0 = nan: Input should be a finite number"),
        ("optimizer.betas=[0.9, 1.0]", "optimizer.betas.1 = 1.0: Input should be less than 1"),
        ("optimizer.betas=[-0.1, 0.9]", "greater than or equal to 0"),
        ("networks.uml.optimizer.lr=-inf", "networks.uml.optimizer.lr = -inf: Input should be a finite number"),
        ("data.workers=-3", "data.workers"),
        ("data.workers=1000", "data.workers"),
        ("data.size=1000000000", "must be at most 67108864 pixels or voxels in all"),
        ("data.size=[9000, 9000, 9000]", "must be at most 67108864 pixels or voxels in all"),
        ("data.window=1000000000000", "less than or equal to 1000000"),
        ("streams.train.count=1000000000", "less than or equal to 65536"),
        ("streams.train.weights=[inf]", "streams.train.weights.0 = inf: Input should be a finite number"),
        ("streams.train.sampling={a = -1.0}", "streams.train.sampling"),
        ("train.steps=1000000000000000000000", "less than or equal to 1000000000"),
        ("train.seed=10000000000000000000", "less than 9223372036854775808"),
        ("model.width=1e6", "less than or equal to 16"),
        ("objective.weights.mutual=inf", "objective.weights.mutual = inf: Input should be a finite number"),
        ("deepspeed.a.b=[1.0, nan]", "deepspeed contains a number that is infinite or NaN"),
    ],
)
def test_a_number_outside_of_its_range_is_one_line(word, message):
    with pytest.raises(UmlError) as raised:
        validate(apply_overrides(TREE, [word]), "run.toml")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_every_number_has_a_range():
    def unbounded(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
        for name, field in schema.model_fields.items():
            if (table := table_of(field)) is not None:
                yield from unbounded(table, f"{prefix}{name}.")
            elif not range_of(field) and re.search(r"\b(int|float)\b", str(field.annotation)):
                yield f"{prefix}{name}"

    # A size has a largest number of pixels instead.
    assert {key for key in unbounded(schema_of("uml")) if not key.endswith("size")} == set()


def test_no_recipe_and_no_streams_are_said_so():
    with pytest.raises(UmlError, match='write recipe = "uml"'):
        validate({}, "run.toml")
    with pytest.raises(UmlError, match=r"key streams is missing"):
        validate({"recipe": "uml"}, "run.toml")


def test_a_file_that_is_no_toml_is_one_line(tmp_path):
    (tmp_path / "bad.toml").write_text("recipe = \numl")
    with pytest.raises(UmlError, match=r"bad\.toml is not valid TOML: "):
        read_config(tmp_path / "bad.toml")
    with pytest.raises(UmlError, match=r"none\.toml cannot be read: No such file"):
        read_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "is not valid TOML: 'utf-8' codec can't decode"),
        (b"a = " + b"[" * 9999, "is not valid TOML: "),
        (b"[" + b".".join([b"a"] * 40) + b"]", "is not valid TOML: tables and lists are nested more than 16 levels"),
        (b"a = " + b"9" * 5000, "is not valid TOML: Exceeds the limit"),
        (b"#" * 2_000_000, "cannot be read: it has more than 1048576 bytes"),
    ],
)
def test_a_file_that_would_overwhelm_the_parser_is_one_line(tmp_path, content, message):
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(UmlError) as raised:
        read_config(tmp_path / "bad.toml")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_name_that_is_too_long_is_one_line():
    with pytest.raises(UmlError, match="cannot be read: File name too long"):
        read_config("a" * 5000)


def test_a_damaged_configuration_is_valid_or_refused_in_one_line(tmp_path):
    data, random = dump(validate(TREE, "tree")).encode(), Random(0)
    refused = 0
    for _ in range(300):
        (tmp_path / "a.toml").write_bytes(damaged(data, random))
        try:
            again = read_config(tmp_path / "a.toml")
        except UmlError as error:
            message = str(error)
        else:
            (tmp_path / "b.toml").write_text(dump(again))
            assert read_config(tmp_path / "b.toml") == again
            continue
        assert "\n" not in message
        refused += 1
    assert refused > 100


def test_a_network_s_optimizer_extends_the_default_one():
    words = ["optimizer.lr=0.5", "optimizer.name=sgd", "networks.uml.optimizer.lr=0.25"]
    config = validate(apply_overrides(TREE, words), "tree")
    assert (config.optimizer_of("uml").lr, config.optimizer_of("uml").name) == (0.25, "sgd")
    assert config.optimizer_of("other").lr == 0.5


def test_differences_name_key_and_both_values():
    old, new = validate(TREE, "a"), validate(apply_overrides(TREE, ["train.seed=1", "model.width=0.5"]), "b")
    found = [str(one) for one in differences(old.model_dump(exclude_none=True), new.model_dump(exclude_none=True))]
    assert found == ["model.width: None -> 0.5", "train.seed: 0 -> 1"]


def test_every_key_has_a_description_or_a_telling_name():
    keys = list(valid_keys(schema_of("uml")))
    assert "streams.NAME.count" in keys
    assert "networks.NAME.optimizer.lr" in keys
    assert "phases.steps" in keys


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"recipe": "uml\x1b[2J"}, "recipe"),
        ({"streams": {"train": {"shards": "a\nerror: forged"}}}, r"streams\.train\.shards"),
        ({"phases": [{"name": "\u202ex"}]}, r"phases\.name"),
        ({"train": {"\x1b[2J": 1}}, "a key"),
    ],
)
def test_texts_that_act_on_a_terminal_are_refused_in_one_line(change, place):
    with pytest.raises(UmlError, match=rf"^tree: {place}: '.*' contains characters that are not printable") as caught:
        validate({**TREE, **change}, "tree")
    assert str(caught.value).isprintable()
