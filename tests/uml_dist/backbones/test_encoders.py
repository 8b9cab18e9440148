"""The encoders: shapes, sizes, and blocks compared with plain implementations of their papers."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from published import fill_statistics
from uml_dist.backbones import ENCODERS, Res2Net50, Vgg16
from uml_dist.backbones.normalisation import FrozenBatchNorm, group_norm
from uml_dist.backbones.res2net import Block

PAPER = {"res2net50": (64, 256, 512, 1024), "vgg16": (64, 128, 256, 512)}


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", PAPER)
def test_features_have_the_shapes_of_the_paper(name):
    with torch.device("meta"):
        encoder = ENCODERS[name].make(3, ENCODERS[name].widths, FrozenBatchNorm)
    features = encoder.to_empty(device="cpu")(torch.empty(1, 3, 32, 32))
    assert encoder.widths == PAPER[name]
    sizes = (32, 16, 8, 4)
    assert [tuple(each.shape) for each in features] == [(1, w, s, s) for w, s in zip(PAPER[name], sizes, strict=True)]


@pytest.mark.parametrize(("name", "whole", "dead"), [("res2net50", 23.61, 14.97), ("vgg16", 14.71, 7.08)])
def test_parameters_are_those_of_the_paper_without_the_unused_stage(name, whole, dead):
    with torch.device("meta"):
        encoder = ENCODERS[name].make(3, ENCODERS[name].widths, FrozenBatchNorm)
    assert parameters(encoder) / 1e6 == pytest.approx(whole - dead, abs=0.01)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("size", [(8, 8), (24, 40)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_small_encoders_accept_any_channels_and_halve_the_size(name, size, channels):
    encoder = ENCODERS[name].make(channels, (8, 16, 24, 40), group_norm)
    features = encoder(torch.randn(2, channels, *size))
    assert [tuple(each.shape[1:]) for each in features] == [
        (width, size[0] >> level, size[1] >> level) for level, width in enumerate((8, 16, 24, 40))
    ]


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("norm", [group_norm, FrozenBatchNorm])
def test_every_parameter_receives_a_gradient_from_the_features(name, norm):
    torch.manual_seed(0)
    encoder = ENCODERS[name].make(3, (8, 16, 24, 40), norm)
    sum(each.square().mean() for each in encoder(torch.randn(2, 3, 32, 32))).backward()
    assert [key for key, each in encoder.named_parameters() if not each.grad.abs().max() > 1e-9] == []


@pytest.mark.parametrize("training", [False, True])
def test_frozen_batch_norm_equals_torch_s_in_evaluation_mode(training):
    torch.manual_seed(0)
    frozen, torchs = FrozenBatchNorm(5).double(), nn.BatchNorm2d(5).double().eval()
    fill_statistics(frozen)
    frozen.running_var[0] = 0  # where the epsilon decides
    torchs.load_state_dict({**frozen.state_dict(), "num_batches_tracked": torch.tensor(7)})
    feature = torch.randn(2, 5, 3, 4).double()
    before = {key: tensor.clone() for key, tensor in frozen.state_dict().items()}
    torch.testing.assert_close(frozen.train(training)(feature), torchs(feature), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(before[key], tensor) for key, tensor in frozen.state_dict().items())
    assert list(frozen.parameters()) == []
    assert frozen(feature.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("channels", [1, 3, 8, 12, 26, 52, 104, 1024])
def test_groups_divide_the_channels_and_have_at_least_eight_if_possible(channels):
    groups = group_norm(channels).num_groups
    assert channels % groups == 0
    assert channels // groups >= min(8, channels)


def normalise(module: nn.Module, feature: torch.Tensor) -> torch.Tensor:
    mean, variance = module.running_mean, module.running_var
    return functional.batch_norm(feature, mean, variance, module.weight, module.bias, eps=1e-5)


def restated_block(block: Block, feature: torch.Tensor, stride: int | None) -> torch.Tensor:
    """Compute Res2Net's block scale by scale (Gao et al., equation 1, and the v1b shortcut)."""

    def scale(index: int, part: torch.Tensor) -> torch.Tensor:
        part = functional.conv2d(part, block.convs[index].weight, stride=stride or 1, padding=1)
        return normalise(block.bns[index], part).clamp(min=0)

    features = normalise(block.bn1, functional.conv2d(feature, block.conv1.weight)).clamp(min=0)
    width = features.shape[1] // 4
    x1, x2, x3, x4 = (features[:, index * width : (index + 1) * width] for index in range(4))
    y1 = scale(0, x1)
    y2 = scale(1, x2 if stride else y1 + x2)
    y3 = scale(2, x3 if stride else y2 + x3)
    shortcut = feature
    if stride:
        # The mean over nine pixels includes the zero padding.
        padded = functional.pad(x4, (1, 1, 1, 1))
        x4 = padded.unfold(2, 3, stride).unfold(3, 3, stride).mean((4, 5))
        pooled = feature.unfold(2, stride, stride).unfold(3, stride, stride).mean((4, 5))
        shortcut = normalise(block.downsample[2], functional.conv2d(pooled, block.downsample[1].weight))
    out = functional.conv2d(torch.cat((y1, y2, y3, x4), 1), block.conv3.weight)
    return (normalise(block.bn3, out) + shortcut).clamp(min=0)


@pytest.mark.parametrize("stride", [None, 1, 2])
def test_res2net_block_equals_the_paper_s(stride):
    torch.manual_seed(0)
    block = Block(24 if stride else 64, 64, stride, FrozenBatchNorm).double()
    fill_statistics(block)
    feature = torch.randn(2, 24 if stride else 64, 8, 12).double()
    expected = restated_block(block, feature, stride)
    torch.testing.assert_close(block(feature), expected, rtol=1e-12, atol=1e-12)


def test_res2net_s_scales_have_the_widths_of_26w_4s():
    with torch.device("meta"):
        encoder = Res2Net50(3, PAPER["res2net50"], FrozenBatchNorm)
    stages = (encoder.layer1, encoder.layer2, encoder.layer3)
    assert [stage[0].convs[0].in_channels for stage in stages] == [26, 52, 104]
    assert [len(stage) for stage in stages] == [3, 4, 6]


def test_vgg_is_convolution_normalisation_relu_with_pooling_between_stages():
    torch.manual_seed(0)
    encoder = Vgg16(3, (8, 16, 24, 40), FrozenBatchNorm).double()
    fill_statistics(encoder)
    image = torch.randn(2, 3, 16, 24).double()
    own = encoder.state_dict()
    numbers = sorted({int(key.split(".")[1]) for key in own if own[key].dim() == 4})
    assert numbers == [0, 3, 7, 10, 14, 17, 20, 24, 27, 30]
    feature, expected = image, []
    for number in numbers:
        if number in (7, 14, 24):
            expected.append(feature)
            feature = feature.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
        convolution, norm = encoder.features[number], encoder.features[number + 1]
        feature = functional.conv2d(feature, convolution.weight, convolution.bias, padding=1)
        feature = normalise(norm, feature).clamp(min=0)
    for own_feature, other in zip(encoder(image), [*expected, feature], strict=True):
        torch.testing.assert_close(own_feature, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ENCODERS)
def test_stages_one_after_another_compute_the_features(name):
    torch.manual_seed(0)
    encoder = ENCODERS[name].make(3, (8, 16, 24, 40), group_norm)
    image = feature = torch.randn(2, 3, 16, 24)
    for level, expected in enumerate(encoder(image)):
        feature = encoder.stage(level, feature)
        assert torch.equal(feature, expected)
