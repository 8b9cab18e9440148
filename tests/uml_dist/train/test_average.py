"""The moving average of a network follows its formula; the networks of a run include those that train.ema adds."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import toy_recipe
from runs import uml_tree
from uml_dist.config.loading import validate
from uml_dist.errors import UmlError
from uml_dist.nn.frozen import frozen
from uml_dist.nn.keyed_dropout import use_rng_key
from uml_dist.recipes import Averaged, Frozen, Trained, networks_of, predicting
from uml_dist.train.average import Average
from uml_dist.train.networks import Networks
from uml_dist.train.setup import prepare

assert toy_recipe


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 3, 1))


def change(module: nn.Module) -> None:
    """Change parameters and buffers, as a step of training does."""
    module(torch.randn(4, 2, 6, 6))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))


def flat(module: nn.Module) -> np.ndarray:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).double().numpy()


def test_each_step_keeps_the_stated_share_of_the_average():
    trained, average = network(0), Average(network(1), 0.99)
    assert not np.array_equal(flat(trained), flat(average.module))
    shares, expected = {}, flat(average.module)
    for step in (0, 1, 2, 98, 99, 102):
        change(trained)
        before = flat(average.module)
        average.update(trained, step)
        share = min(1 - 1 / (step + 1), 0.99)
        expected = share * expected + (1 - share) * flat(trained)
        np.testing.assert_allclose(flat(average.module), expected, rtol=0, atol=1e-5)
        moved = (flat(average.module) - flat(trained)) / (before - flat(trained))
        shares[step] = np.median(moved)
    assert [round(shares[step], 4) for step in (0, 1, 98, 99, 102)] == [0.0, 0.5, 0.9899, 0.99, 0.99]


def test_after_the_first_step_the_average_equals_the_network_bit_for_bit():
    trained, average = network(0), Average(network(1), 0.99)
    change(trained)
    average.update(trained, 0)
    for own, other in zip(average.module.state_dict().values(), trained.state_dict().values(), strict=True):
        assert torch.equal(own, other)


def test_buffers_are_those_of_the_network_at_every_step():
    trained = network(0)
    average = Average(copy.deepcopy(trained), 0.9)
    for step in range(3):
        change(trained)
        average.update(trained, step)
        for own, other in zip(average.module.buffers(), trained.buffers(), strict=True):
            assert torch.equal(own, other)
    assert int(average.module[1].num_batches_tracked) == 3
    assert not np.array_equal(flat(average.module), flat(trained))


def toy_setup(shards, **train):
    stream = {"shards": str(shards), "count": 4}
    train = {"steps": 2, "best": "accuracy", **train}
    return prepare(
        validate({"recipe": "toy", "streams": {"labelled": stream, "unlabelled": stream}, "train": train}, "test"), 1
    )


def test_networks_that_the_recipe_does_not_average_get_an_average(partly_known):
    networks = networks_of(toy_setup(partly_known, ema=0.999).recipe)
    assert networks["critic.ema"] == Averaged("critic", 0.999)
    assert list(networks) == ["student", "critic", "teacher", "before", "critic.ema"]
    assert list(networks_of(toy_setup(partly_known).recipe)) == list(networks)[:-1]


def test_predictions_use_the_average_under_the_name_of_its_network(partly_known):
    recipe = toy_setup(partly_known, ema=0.999).recipe
    itself = {name: name for name in recipe.networks}
    assert predicting(recipe, "trained") == itself
    assert predicting(recipe, "averaged") == {**itself, "student": "teacher", "critic": "critic.ema"}


def test_averages_and_frozen_copies_get_no_gradient(partly_known):
    setup = toy_setup(partly_known, ema=0.999)
    networks = Networks(setup.recipe, setup.config, torch.device("cpu"))
    networks.start()
    image = torch.randn(2, 3, 32, 32, requires_grad=True)
    for name in ("teacher", "before"):
        with use_rng_key(torch.arange(2)):
            (gradient,) = torch.autograd.grad(frozen(networks[name])(image).square().sum(), image)
            networks[name](image).sum().backward()
        assert gradient.abs().max() > 0
    for name, role in networks.roles.items():
        learns = {parameter.requires_grad for parameter in networks[name].parameters()}
        assert learns == {isinstance(role, Trained)}
        assert all(parameter.grad is None for parameter in networks[name].parameters())
    assert image.grad is not None


class AllAveraged(toy_recipe.ToyRecipe):
    @property
    def networks(self):
        return {**super().networks, "judge": Averaged("critic")}


class NameTaken(toy_recipe.ToyRecipe):
    @property
    def networks(self):
        return {**super().networks, "critic.ema": Frozen("critic")}


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (AllAveraged, "train.ema: recipe toy averages each of its trained networks itself: leave train.ema out"),
        (NameTaken, "train.ema: recipe toy has a network 'critic.ema', the name of the average of critic: rename it"),
    ],
)
def test_an_average_that_cannot_be_added_is_refused(recipe, message, partly_known):
    setup = toy_setup(partly_known, ema=0.999)
    with pytest.raises(UmlError) as error:
        networks_of(recipe(setup.config, setup.recipe.manifests))
    assert str(error.value) == message


def test_evaluating_with_an_average_needs_one(partly_known):
    with pytest.raises(UmlError) as error:
        prepare(validate(uml_tree(partly_known, train__evaluate_with="averaged"), "test"), 1)
    assert str(error.value) == (
        "train.evaluate_with = 'averaged', but recipe uml averages no network: set train.ema, such as train.ema=0.999"
    )


def test_runs_with_an_average_of_train_ema_predict_with_it_unless_they_are_told_otherwise(partly_known):
    def weights(**train):
        return toy_setup(partly_known, **train).config.train.weights

    assert weights() == weights(ema=0.9, evaluate_with="trained") == "trained"
    assert weights(ema=0.9) == weights(evaluate_with="averaged") == "averaged"
