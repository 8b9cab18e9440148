"""V-Net and 3-D U-Net: sizes, numbers of parameters, dropout, and recomputed activations."""

import pytest
import torch
from torch import nn

from uml_dist.backbones.normalisation import GlobalBatchNorm, group_norm
from uml_dist.backbones.unet3d import UNet3d
from uml_dist.backbones.vnet import VNet
from uml_dist.nn.keyed_dropout import name_layers, use_rng_key

KINDS = pytest.mark.parametrize("kind", [VNet, UNet3d])


def parameters_of(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("norm", [group_norm, GlobalBatchNorm])
def test_v_net_has_the_parameters_of_its_lineage(norm):
    # Two heads of one channel each, as in DTC, bring it to 9,448,866.
    assert parameters_of(VNet(1, 16, norm)) == 9_448_832


def test_u_net_has_the_parameters_of_the_release():
    assert parameters_of(UNet3d(1, 16, nn.InstanceNorm3d)) + parameters_of(nn.Conv3d(16, 2, 1)) == 5_884_050


@KINDS
@pytest.mark.parametrize("norm", [group_norm, GlobalBatchNorm, nn.InstanceNorm3d])
def test_feature_has_the_size_of_the_volume(kind, norm):
    network = kind(2, 4, norm).eval()
    assert network(torch.randn(2, 2, 32, 16, 48)).shape == (2, network.width, 32, 16, 48)


@KINDS
def test_every_parameter_gets_a_gradient(kind):
    network = kind(1, 4, group_norm, dropout=0.0)
    network(torch.randn(1, 1, 16, 16, 32)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert any(parameter.grad.abs().sum() > 0 for parameter in network.encoder.parameters())


@KINDS
def test_recomputed_activations_give_the_same_gradient_with_dropout(kind):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = name_layers(kind(1, 4, group_norm, dropout=0.5, checkpointing=checkpointing))
        volume = torch.randn(2, 1, 16, 16, 16, requires_grad=True)
        with use_rng_key(torch.arange(2)):
            network(volume).square().sum().backward()
        gradients.append([volume.grad, *(parameter.grad for parameter in network.parameters())])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_v_net_drops_channels_and_u_net_drops_values():
    dropped = []
    for kind in (VNet, UNet3d):
        network = name_layers(kind(1, 16, group_norm, dropout=0.5))
        network.decoder[-1] = nn.Sequential(nn.Conv3d(network.decoder[-1][0].in_channels, 16, 1), nn.Softplus())
        with use_rng_key(torch.arange(1)):
            dropped.append((network(torch.randn(1, 1, 16, 16, 16)) == 0).flatten(2).float().mean(2))
    channels, values = dropped
    assert set(channels.unique().tolist()) == {0.0, 1.0}
    assert ((values > 0.4) & (values < 0.6)).all()
