"""A recipe is found by its name or by the path of a class, from wherever a configuration is read."""

import sys

import pytest

from runs import train
from toy_recipe import ToyRecipe
from uml_dist import load_run
from uml_dist.config.loading import dump, read_config, validate
from uml_dist.errors import UmlError
from uml_dist.recipes import recipe_class
from uml_dist.recipes.uml.recipe import UmlRecipe
from uml_dist.train.main import default_run_name
from uml_dist.train.setup import prepare
from worlds import run_world

TOY = """
recipe = "toy_recipe:ToyRecipe"
streams.labelled = { shards = "x", count = 4 }
streams.unlabelled = { shards = "x", count = 2 }
objective.consistency = 0.5
"""


def test_a_name_and_a_path_give_the_class():
    assert recipe_class("uml") is UmlRecipe
    assert recipe_class("uml_dist.recipes.uml.recipe:UmlRecipe") is UmlRecipe
    assert recipe_class("toy_recipe:ToyRecipe") is ToyRecipe


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes an importable module, and returns its name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "someone_s_recipe", raising=False)

    def write(code: str) -> str:
        (tmp_path / "someone_s_recipe.py").write_text(code)
        return "someone_s_recipe"

    return write


@pytest.mark.parametrize("name", ["umi", "toy_recipe", ":ToyRecipe", "toy_recipe:", ":"])
def test_what_is_neither_a_name_nor_a_path_is_refused(name):
    with pytest.raises(UmlError, match=r"unknown recipe .* built in: .*uml.* or write package\.module:Class$"):
        recipe_class(name)


@pytest.mark.parametrize(
    ("name", "missing"),
    [("nowhere:Mine", "nowhere"), ("nowhere.recipes:Mine", "nowhere"), ("uml_dist.nowhere:Mine", "uml_dist.nowhere")],
)
def test_a_module_that_is_not_there_is_named(name, missing):
    with pytest.raises(UmlError, match=f"recipe '{name}': there is no module {missing}: install its package, or add"):
        recipe_class(name)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("from uml_dist.recipes import Recipes", "ImportError: cannot import name 'Recipes' from "),
        ("def broken(:", "SyntaxError: invalid syntax"),
        ("raise RuntimeError('first line\\nsecond line')", "RuntimeError: first line"),
    ],
)
def test_a_module_that_fails_is_one_line_with_its_reason(code, reason, module):
    name = module(code)
    with pytest.raises(UmlError) as raised:
        recipe_class(f"{name}:Mine")
    assert f"module {name} cannot be imported: {reason}" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.__cause__ is not None, "--debug has nothing to show"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("", "module someone_s_recipe has no Mine"),
        ("Mine = 3", "Mine is not a subclass of uml_dist.recipes.Recipe"),
        ("class Mine: name = 'mine'", "Mine is not a subclass of uml_dist.recipes.Recipe"),
        (
            "from uml_dist.recipes import Recipe\nclass Mine(Recipe):\n    def predict(self, batch, networks): ...",
            "class Mine does not define counts, networks, step, name",
        ),
    ],
)
def test_what_is_no_whole_recipe_is_refused(code, reason, module):
    with pytest.raises(UmlError, match=f"recipe 'someone_s_recipe:Mine': {reason}$"):
        recipe_class(f"{module(code)}:Mine")


def test_its_own_sections_are_read_from_toml_and_the_command_line_and_written_again(tmp_path):
    path = tmp_path / "toy.toml"
    path.write_text(TOY)
    config = read_config(path, ["objective.consistency=0.25"])
    assert isinstance(config, ToyRecipe.Config)
    assert config.objective.consistency == 0.25
    with pytest.raises(UmlError, match=r"unknown key objective\.consistenzy: did you mean objective\.consistency"):
        read_config(path, ["objective.consistenzy=1"])
    path.write_text(dump(config))
    assert read_config(path) == config
    word = ["recipe=toy_recipe:ToyRecipe"]
    path.write_text(TOY.replace("toy_recipe:ToyRecipe", "uml"))
    assert read_config(path, [*word, "objective.consistency=0.25"]) == config


def toy_tree(shards):
    return {
        "recipe": "toy_recipe:ToyRecipe",
        "streams": {name: {"shards": str(shards), "count": 4} for name in ("labelled", "unlabelled")},
        "data": {"workers": 0},
        "train": {"steps": 4, "log_every": 1, "best": "accuracy"},
        "checkpoint": {"every": 2},
    }


@pytest.mark.distributed
def test_a_run_of_a_path_resumes_and_reads_back(partly_known, tmp_path):
    tree, path = toy_tree(partly_known), str(tmp_path / "run")
    straight = run_world(2, train, tree)[0]
    run_world(2, train, tree, path, True, 3)
    resumed = run_world(2, train, tree, path, True)[0]
    assert resumed.losses == straight.losses[2:]
    run = load_run(path, "latest", "cpu")
    assert isinstance(run.recipe, ToyRecipe)
    assert (run.config.recipe, run.state.recipe, run.state.step) == (*["toy_recipe:ToyRecipe"] * 2, 4)
    stream = run.stream(run.open_split("val"))
    (_, prediction), *_ = run.predictor.predictions(stream, [0, 1], batch_size=2)
    assert prediction.image_probability is not None
    assert prediction.image_probability.shape == (2, 2)


def test_the_default_name_of_a_run_holds_no_path(partly_known):
    setup = prepare(validate(toy_tree(partly_known), "tree"), 1)
    assert default_run_name(setup).startswith("toy-phantom-")
