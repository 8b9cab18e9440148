"""A frozen network: its inputs get gradients, its parameters none, and it stays as it was."""

import copy

import pytest
import torch
from torch import nn

from uml_dist.nn.frozen import frozen
from uml_dist.nn.keyed_dropout import KeyedDropout, name_layers, use_rng_key


@pytest.fixture
def network():
    torch.manual_seed(1)
    layers = nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), KeyedDropout(0.5), nn.Conv2d(4, 1, 3)
    return name_layers(nn.Sequential(*layers))


def test_inputs_get_the_gradient_and_parameters_none(network):
    image = torch.randn(3, 2, 8, 8, requires_grad=True)
    with use_rng_key(torch.arange(3)):
        (found,) = torch.autograd.grad(frozen(network)(image).square().sum(), image)
        (expected,) = torch.autograd.grad(copy.deepcopy(network)(image).square().sum(), image)
        assert torch.equal(found, expected)
        frozen(network)(image).sum().backward()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_it_has_the_weights_of_the_moment_of_the_call(network):
    judge, image = frozen(network.eval()), torch.randn(1, 2, 8, 8)
    before = judge(image)
    with torch.no_grad():
        network[3].bias += 1.0
    torch.testing.assert_close(judge(image), before + 1.0)


def test_parameters_of_zero_3_are_constants_during_the_call_only(network):
    for parameter in network.parameters():
        parameter.ds_id = 0
    fixed = network[3].bias.requires_grad_(False)
    image = torch.randn(1, 2, 8, 8, requires_grad=True)
    with use_rng_key(torch.arange(1)):
        frozen(network)(image).sum().backward()
    assert image.grad is not None
    learning = [parameter for parameter in network.parameters() if parameter is not fixed]
    assert all(parameter.grad is None and parameter.requires_grad for parameter in learning)
    assert not fixed.requires_grad


@pytest.mark.parametrize("partitioned", [False, True])
def test_running_statistics_do_not_follow_the_images(partitioned):
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)).train()
    if partitioned:
        for parameter in network.parameters():
            parameter.ds_id = 0
    before = copy.deepcopy(network.state_dict())
    image = torch.randn(3, 2, 8, 8)
    found = frozen(network)(image)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(found, network(image))
    assert not torch.equal(network[1].running_mean, before["1.running_mean"])
