"""Generator and discriminator of collab, and the trunks and heads of its grader."""

import pytest
import torch
from torch import nn

from published import checkpoint, save
from uml_dist.backbones.normalisation import FrozenBatchNorm, GlobalBatchNorm, group_norm
from uml_dist.recipes.collab.discriminator import Discriminator
from uml_dist.recipes.collab.generator import LesionGenerator
from uml_dist.recipes.collab.heads import OrdinalHead, ordinal_probability
from uml_dist.recipes.collab.lesions import LesionMaps
from uml_dist.recipes.collab.trunk import build_trunk, encoder_choice

NORMS = pytest.mark.parametrize("norm", [group_norm, GlobalBatchNorm])
BLOCKS = pytest.mark.parametrize("block", ["plain", "xception"])
STRIDES = pytest.mark.parametrize("stride", [1, 2, 4])


def parameters_of(network):
    return sum(parameter.numel() for parameter in network.parameters())


def without_gradient(network):
    return [name for name, parameter in network.named_parameters() if not parameter.grad.abs().max() > 0]


@NORMS
def test_the_plain_generator_has_the_parameters_of_its_lineage(norm):
    with torch.device("meta"):
        assert parameters_of(LesionGenerator(3, 4, 32, "plain", norm)) == 7_763_140


def test_the_xception_generator_has_the_parameters_of_its_formula():
    def separable(inputs, outputs):
        return inputs * outputs + 9 * outputs + 2 * outputs  # pointwise, one kernel a channel, normalisation

    def block(inputs, outputs):
        return separable(inputs, outputs) + separable(outputs, outputs)

    first = 9 * 3 * 32 + 9 * 32 * 32 + 4 * 32
    encoder = block(32, 64) + block(64, 128) + block(128, 256) + block(256, 512)
    shortcuts = 32 * 64 + 64 * 128 + 128 * 256
    decoder = sum(4 * 2 * wide * wide + wide + block(2 * wide, wide) for wide in (32, 64, 128, 256))
    with torch.device("meta"):
        network = LesionGenerator(3, 4, 32, "xception", group_norm)
    assert parameters_of(network) == first + encoder + shortcuts + decoder + 33 * 4


@BLOCKS
@NORMS
def test_the_generator_returns_a_logit_for_each_lesion_and_pixel(block, norm):
    network = LesionGenerator(3, 4, 8, block, norm)
    logits = network(torch.randn(2, 3, 64, 48))
    assert logits.shape == (2, 4, 64, 48)
    logits.square().sum().backward()
    assert without_gradient(network) == []


@pytest.mark.parametrize("prior", [0.01, 0.05, 0.4])
@pytest.mark.parametrize("scores", [1, 2])
def test_before_training_every_lesion_has_the_prior_probability(scores, prior):
    network = LesionGenerator(3, 4, 8, "plain", group_norm, scores, prior)
    nn.init.zeros_(network.head.weight)
    maps = LesionMaps.of(network(torch.randn(1, 3, 32, 32)))
    torch.testing.assert_close(maps.probability, torch.full((1, 4, 32, 32), prior), rtol=1e-5, atol=0)
    assert (maps.vacuity is None) == (scores == 1)


def test_several_scores_of_a_lesion_are_neighbours():
    network = LesionGenerator(3, 3, 8, "plain", group_norm, scores=2)
    nn.init.zeros_(network.head.weight)
    network.head.bias.data = torch.arange(6.0)
    scores = network(torch.randn(1, 3, 16, 16))
    assert scores.shape == (1, 3, 2, 16, 16)
    assert scores.mean((0, 3, 4)).tolist() == [[0, 1], [2, 3], [4, 5]]


def test_an_xception_block_is_pointwise_first_and_pooled_levels_have_a_shortcut():
    """With the products of both kernels in a plain convolution, and without the shortcuts, it is the plain network."""
    torch.manual_seed(0)
    network = LesionGenerator(3, 2, 8, "xception", nn.Identity).double()
    plain = LesionGenerator(3, 2, 8, "plain", nn.Identity).double()
    for name, module in network.named_modules():
        if name.endswith("head") or ".0.block" in name or name.startswith("up."):
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                plain.get_submodule(name).load_state_dict(module.state_dict())
        elif name.endswith("shortcut"):
            nn.init.zeros_(module.weight)
        elif isinstance(module, nn.Sequential):
            pointwise, spatial = (
                [each for each in module if isinstance(each, nn.Conv2d) and each.kernel_size == (side, side)]
                for side in (1, 3)
            )
            convolutions = [each for each in plain.get_submodule(name) if isinstance(each, nn.Conv2d)]
            for convolution, first, second in zip(convolutions, pointwise, spatial, strict=True):
                convolution.weight.data = second.weight.data * first.weight.data
    image = torch.randn(1, 3, 32, 32).double()
    torch.testing.assert_close(network(image), plain(image), rtol=1e-10, atol=1e-12)
    level = network.encoder[1]
    feature = torch.randn(1, 8, 6, 6).double()
    without = level(feature)[1]
    nn.init.ones_(level.shortcut.weight)
    shortcut = feature[..., ::2, ::2].sum(1, keepdim=True)
    torch.testing.assert_close(level(feature)[1] - without, shortcut.expand_as(without))


@BLOCKS
def test_checkpointing_changes_no_bit_of_the_generator_s_gradients(block):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = LesionGenerator(3, 2, 8, block, group_norm, checkpointing=checkpointing)
        network(torch.randn(2, 3, 32, 32)).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(plain, recomputed) for plain, recomputed in zip(*gradients, strict=True))


@NORMS
def test_the_discriminator_has_the_parameters_of_its_lineage(norm):
    with torch.device("meta"):
        assert parameters_of(Discriminator(7, 32, norm)) == 4_715_873


@NORMS
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (45, 96)])
def test_the_discriminator_returns_one_logit_at_any_size(norm, size):
    network = Discriminator(7, 8, norm)
    logits = network(torch.randn(3, 7, *size))
    assert logits.shape == (3,)
    logits.square().sum().backward()
    assert without_gradient(network) == []


@pytest.mark.parametrize("norm", [group_norm, GlobalBatchNorm, nn.Identity])
@pytest.mark.parametrize(
    ("backbone", "stride"),
    [*((name, stride) for name in ("small_cnn", "compact") for stride in (1, 2, 4)), ("vgg16", 2), ("res2net50", 4)],
)
def test_every_trunk_has_its_low_feature_at_the_stride(backbone, stride, norm):
    trunk = build_trunk(backbone, 3, 8, stride, norm)
    low = trunk.low(torch.randn(2, 3, 64, 32))
    assert low.shape == (2, trunk.low_width, 64 // stride, 32 // stride)
    vector = trunk.high(low)
    assert vector.shape == (2, trunk.high_width)
    vector.square().sum().backward()
    assert all(parameter.grad is not None for parameter in trunk.parameters())


@STRIDES
def test_the_small_cnn_ends_at_a_stride_of_32_with_the_same_parameters(stride):
    trunk = build_trunk("small_cnn", 3, 8, stride, group_norm)
    low = trunk.low(torch.randn(1, 3, 64, 96))
    assert trunk.high_part(low).shape == (1, 256, 2, 3)
    assert parameters_of(trunk) == parameters_of(build_trunk("small_cnn", 3, 8, 1, group_norm))


@pytest.mark.parametrize("backbone", ["compact", "res2net50", "vgg16"])
def test_an_encoder_is_the_same_function_at_every_stride(backbone):
    trunks = [build_trunk(backbone, 3, 8, stride, group_norm) for stride in (1, 2, 4)]
    image = torch.randn(1, 3, 16, 16)
    for trunk in trunks[1:]:
        trunk.load_state_dict(trunks[0].state_dict())
    first, *others = (trunk.high(trunk.low(image)) for trunk in trunks)
    assert all(torch.equal(first, other) for other in others)


def test_published_weights_fit_a_trunk_of_width_32_with_frozen_batch_norm(tmp_path):
    weights = str(save(checkpoint("vgg16_bn of torchvision"), tmp_path / "vgg.pth"))
    choice = encoder_choice("vgg16", 32, group_norm, weights)
    choice.check(3)
    trunk = build_trunk("vgg16", 3, 32, 2, group_norm, weights)
    assert choice.load(trunk.encoder)[0].startswith(f"weights {weights}: not used: ")
    assert isinstance(trunk.encoder.features[1], FrozenBatchNorm)
    assert trunk.encoder.features[0].bias[0] == 2.0  # the second tensor of the file
    assert (trunk.low_width, trunk.high_width) == (128, 512)


def test_the_ordinal_head_has_increasing_thresholds_of_one_score():
    torch.manual_seed(0)
    head = OrdinalHead(6, 5)
    vector = torch.randn(3, 6)
    score = vector @ head.score.weight.T
    torch.testing.assert_close(score - head(vector), torch.tensor([[-1.5, -0.5, 0.5, 1.5]]).expand(3, 4))
    nn.init.normal_(head.gaps, std=5.0)
    assert (head(vector).diff(dim=1) < 0).all()


def test_ordinal_probabilities_are_the_shares_between_the_thresholds():
    logits = torch.tensor([[2.0, 0.5, -1.0], [-3.0, -3.0, -40.0]], dtype=torch.float64, requires_grad=True)
    probability = ordinal_probability(logits)
    worse = torch.sigmoid(logits.detach())
    expected = torch.stack([1 - worse[:, 0], worse[:, 0] - worse[:, 1], worse[:, 1] - worse[:, 2], worse[:, 2]], 1)
    torch.testing.assert_close(probability.detach(), expected)
    assert (probability >= 0).all()
    torch.autograd.gradcheck(ordinal_probability, logits)
