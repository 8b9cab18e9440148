"""A recipe of an installed package is found by the name of its entry point."""

import sys

import pytest

from packages import EXAMPLE, install, install_example
from uml_dist.config.loading import read_config
from uml_dist.errors import UmlError
from uml_dist.recipes import recipe_class
from uml_dist.recipes.uml.recipe import UmlRecipe

GROUP = "uml_dist.recipes"
COMPLETE = """
from uml_dist.recipes import Recipe

class Mine(Recipe):
    name = "mine"
    networks = counts = step = predict = None
"""


def declare(site, package="their-recipes", value="their_recipes:Mine", code=COMPLETE, name="mine"):
    install(site, package, {GROUP: {name: value}}, {"their_recipes": code})


def problem(name: str) -> str:
    """The message of the error that looking up a name raises, which is one line."""
    with pytest.raises(UmlError) as raised:
        recipe_class(name)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_name_of_an_entry_point_gives_its_class(site):
    declare(site)
    assert recipe_class("mine") is recipe_class("their_recipes:Mine")
    assert recipe_class("mine").name == "mine"


def test_a_configuration_names_an_installed_recipe_and_sets_its_own_keys(site):
    install_example(site)
    config = read_config(EXAMPLE / "lesion.toml", ["model.width=4"])
    assert (config.recipe, config.model.model_dump()["width"]) == ("lesion_net", 4)
    with pytest.raises(UmlError, match=r"unknown key model\.widths: did you mean model\.width\?"):
        read_config(EXAMPLE / "lesion.toml", ["model.widths=4"])


def test_modules_of_other_packages_are_not_imported_until_their_name_is_looked_up(site):
    declare(site)
    assert recipe_class("uml") is UmlRecipe
    assert "mine (their-recipes)" in problem("yours")
    assert "their_recipes" not in sys.modules
    recipe_class("mine")
    assert "their_recipes" in sys.modules


def test_a_built_in_name_takes_precedence_over_an_entry_point(site):
    declare(site, name="uml")
    assert recipe_class("uml") is UmlRecipe


def test_two_packages_that_declare_one_name_are_both_named(site):
    declare(site)
    install(site, "other-recipes", {GROUP: {"mine": "other_recipes:Mine"}})
    message = problem("mine")
    assert message.startswith("recipe 'mine' is declared by several packages: ")
    assert "their-recipes (their_recipes:Mine)" in message
    assert "other-recipes (other_recipes:Mine)" in message
    assert recipe_class("their_recipes:Mine").name == "mine"


def test_a_package_that_is_found_in_two_folders_counts_once(site, tmp_path, monkeypatch):
    declare(site)
    monkeypatch.syspath_prepend(str(tmp_path / "again"))
    declare(tmp_path / "again")
    assert recipe_class("mine").name == "mine"


@pytest.mark.parametrize(("name", "near"), [("umi", "uml"), ("mime", "mine")])
def test_an_unknown_name_lists_all_names_and_suggests_the_nearest(name, near, site):
    declare(site)
    message = problem(name)
    assert message.startswith(f"unknown recipe '{name}': did you mean {near}? built in: ")
    assert "from installed packages: mine (their-recipes); " in message
    assert message.endswith("for another one, install its package or write package.module:Class")


@pytest.mark.parametrize(
    ("value", "code", "reason"),
    [
        ("absent_recipes:Mine", "", "there is no module absent_recipes: install its package"),
        ("their_recipes:Yours", "", "module their_recipes has no Yours"),
        ("their_recipes", "", "entry point 'their_recipes' is not package.module:Class"),
        ("their_recipes:Mine", "import absent", "module their_recipes cannot be imported: ModuleNotFoundError: No mod"),
        ("their_recipes:Mine", "raise SystemExit(3)", "module their_recipes cannot be imported: SystemExit: 3"),
        ("their_recipes:Mine", "Mine = 3", "Mine is not a subclass of uml_dist.recipes.Recipe"),
        ("their_recipes:Mine", COMPLETE.replace("= step", ""), "class Mine does not define step"),
        ("their_recipes:Mine", COMPLETE.replace('"mine"', '"ours"'), "the name of class Mine is 'ours': give both the"),
    ],
)
def test_an_unusable_recipe_is_one_line_with_its_package_and_the_reason(value, code, reason, site):
    declare(site, value=value, code=code)
    assert problem("mine").startswith(f"recipe 'mine' of package their-recipes: {reason}")


def test_malformed_metadata_of_a_package_are_one_line_and_do_not_affect_built_in_names(site):
    declare(site)
    (site / "their_recipes-1.0.dist-info" / "entry_points.txt").write_text(f"[{GROUP}]\nmine\n")
    assert "cannot list the installed packages' entry points uml_dist.recipes: " in problem("mine")
    assert recipe_class("uml") is UmlRecipe
