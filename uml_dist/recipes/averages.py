"""The networks of a run: those of its recipe, and averages of those that the recipe does not average itself."""

from collections.abc import Mapping

from ..config.schema import Weights
from ..errors import UmlError
from .recipe import Averaged, Network, Recipe, Trained

SUFFIX = ".ema"
"""Ending of the name of an average that `train.ema` adds to the name of its network."""


def networks_of(recipe: Recipe) -> dict[str, Network]:
    """Return every network of a run by name: those of the recipe, then the averages that `train.ema` adds.

    Raises:
        UmlError: `train.ema` has nothing to average, or a network has the name of an average.
    """
    networks, decay = dict(recipe.networks), recipe.config.train.ema
    if decay is None:
        return networks
    name, averaged = recipe.config.recipe, averages_in(networks)
    alone = [one for one, role in networks.items() if isinstance(role, Trained) and one not in averaged]
    if not alone:
        raise UmlError(f"train.ema: recipe {name} averages each of its trained networks itself: leave train.ema out")
    for one in alone:
        if one + SUFFIX in networks:
            raise UmlError(
                f"train.ema: recipe {name} has a network {one + SUFFIX!r}, the name of the average of {one}: rename it"
            )
    return networks | {one + SUFFIX: Averaged(one, decay) for one in alone}


def averages_in(networks: Mapping[str, Network]) -> dict[str, str]:
    """Return trained network -> the first network that is its average, of the networks that have one."""
    found: dict[str, str] = {}
    for name, role in networks.items():
        if isinstance(role, Averaged):
            found.setdefault(role.of, name)
    return found


def predicting(recipe: Recipe, weights: Weights) -> dict[str, str]:
    """Return each network of a recipe -> the network that predictions use under its name: itself, or its average.

    Args:
        recipe: the recipe.
        weights: the weights of trained networks that predictions use.
    """
    averages = averages_in(networks_of(recipe)) if weights == "averaged" else {}
    return {name: averages.get(name, name) for name in recipe.networks}
