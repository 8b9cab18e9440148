"""The grader of collab: its attention against the formulas, isolation, frozen features, and memory by recomputation."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from uml_dist.backbones.normalisation import GlobalBatchNorm, group_norm
from uml_dist.recipes.collab.grader import Grader
from uml_dist.recipes.collab.trunk import build_trunk

KINDS = ("none", "mask", "low", "full")
LESIONS, GRADES, WIDTH = 3, 5, 8


def build(kind="full", backbone="small_cnn", stride=1, norm=group_norm, refinement="anew", **settings):
    torch.manual_seed(0)
    trunk = build_trunk(backbone, 3, WIDTH, stride, norm)
    return Grader(trunk, LESIONS, GRADES, WIDTH, norm, kind, refinement, **settings)


def batch(size=64, dtype=torch.float32):
    torch.manual_seed(1)
    return torch.randn(2, 3, size, size, dtype=dtype), torch.rand(2, LESIONS, size, size, dtype=dtype)


def gradients(grader, *inputs):
    output = grader(*inputs)
    loss = functional.cross_entropy(output.logits, torch.tensor([0, 3])) + output.attention.square().mean()
    loss.backward()
    return [output.logits.detach(), output.attention.detach(), *(each.grad for each in grader.parameters())]


@pytest.mark.parametrize("norm", [group_norm, GlobalBatchNorm])
def test_the_grader_has_the_parameters_of_its_lineage(norm):
    with torch.device("meta"):
        grader = Grader(build_trunk("small_cnn", 3, 32, 1, norm), 4, 5, 32, norm)
        assert sum(parameter.numel() for parameter in grader.parameters()) == 10_591_465


@pytest.mark.parametrize(
    ("backbone", "stride", "kind"),
    [
        *(("small_cnn", stride, kind) for stride in (1, 2, 4) for kind in KINDS),
        *((backbone, stride, "full") for backbone in ("compact", "vgg16") for stride in (1, 2, 4)),
        ("res2net50", 4, "full"),
    ],
)
def test_every_backbone_grades_with_and_without_attention(backbone, stride, kind):
    grader = build(kind, backbone, stride)
    image, maps = batch()
    with torch.no_grad():
        alone, attentive = grader(image), grader(image, maps)
    assert alone.logits.shape == attentive.logits.shape == (2, GRADES)
    assert alone.attention is None
    if kind == "none":
        assert attentive.attention is None
        assert torch.equal(alone.logits, attentive.logits)
        return
    assert attentive.attention.shape == (2, LESIONS, 64 // stride, 64 // stride)
    assert attentive.attention_at((64, 64)).shape == (2, LESIONS, 64, 64)
    assert ((attentive.attention > 0) & (attentive.attention < 1)).all()


def grouped_form(grader, image, maps, kind):
    """Equations 7.1 to 7.5 by grouped convolutions over all lesions, which enter the high part as one batch."""
    lesions = list(grader.attention)

    def joined(name, part):
        return torch.cat([getattr(lesion.get_submodule(name), part) for lesion in lesions])

    def convolve(name, feature):
        return functional.conv2d(feature, joined(name, "weight"), joined(name, "bias"), padding=1, groups=LESIONS)

    def normalise(name, feature):
        groups = LESIONS * lesions[0].get_submodule(name).num_groups
        return functional.group_norm(feature, groups, joined(name, "weight"), joined(name, "bias"))

    low = grader.trunk.low(image)
    vector = grader.trunk.high(low)
    refined = maps
    if lesions:
        embedded = normalise("embed.2", convolve("embed.0", maps).relu())
        embedded = normalise("embed.5", convolve("embed.3", embedded).relu()).unflatten(1, (LESIONS, -1))
        both = torch.cat([embedded, low.unsqueeze(1).expand(-1, LESIONS, -1, -1, -1)], 2).flatten(1, 2)
        feature = convolve("join", both).relu()
        if kind == "full":
            gate = functional.conv2d(vector[:, :, None, None], grader.gate.weight[..., None, None], grader.gate.bias)
            feature = (feature.unflatten(1, (LESIONS, -1)) * gate.unsqueeze(1)).flatten(1, 2)
        logit = convolve("head", feature)
        refined = torch.sigmoid(logit + torch.logit(maps, 1e-4) if lesions[0].corrects else logit)
    weighted = refined.unsqueeze(2) * low.unsqueeze(1)
    vectors = grader.trunk.high(weighted.flatten(0, 1)).reshape(len(image), -1)
    return grader.head(grader.join(vectors)), refined


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize(
    ("kind", "refinement"),
    [("mask", "anew"), ("low", "anew"), ("full", "anew"), ("low", "correction"), ("full", "correction")],
)
def test_attention_and_grade_are_those_of_the_formulas(kind, refinement, one_by_one):
    grader = build(kind, refinement=refinement, one_by_one=one_by_one).double()
    for attention in grader.attention:
        nn.init.normal_(attention.head.weight, std=0.1)
    image, maps = batch(32, torch.float64)
    logits, refined = grouped_form(grader, image, maps, kind)
    output = grader(image, maps)
    torch.testing.assert_close(output.logits, logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(output.attention, refined, rtol=1e-12, atol=1e-12)


def test_the_refined_map_is_that_of_the_generator_before_training():
    grader = build("full", refinement="correction")
    image, maps = batch()
    maps[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    attention = grader(image, maps).attention
    torch.testing.assert_close(attention, maps, rtol=0, atol=1.1e-4)
    assert torch.isfinite(attention.logit()).all()


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    ("backbone", "kind", "dtype", "tolerance"),
    [
        ("small_cnn", "full", torch.float64, 1e-12),
        ("small_cnn", "low", torch.float64, 1e-12),
        ("small_cnn", "mask", torch.float64, 1e-12),
        ("res2net50", "full", torch.float64, 1e-12),
        ("small_cnn", "full", torch.float32, 1e-6),
        ("vgg16", "full", torch.float32, 1e-6),
    ],
)
def test_lesions_one_by_one_give_the_gradients_of_all_together(backbone, kind, given, dtype, tolerance):
    image, maps = batch(32, dtype)
    found = []
    for one_by_one in (False, True):
        grader = build(kind, backbone, 2, one_by_one=one_by_one, checkpointing=one_by_one).to(dtype)
        with torch.no_grad():
            features = copy.deepcopy(grader).features(image) if given else None
        found.append(gradients(grader, image, maps, features))
    together, alone = found
    assert [each is None for each in together] == [each is None for each in alone]
    together, alone = (torch.cat([each.flatten() for each in form if each is not None]) for form in found)
    assert (together - alone).norm() <= tolerance * together.norm()


@pytest.mark.parametrize("kind", ["mask", "low", "full"])
def test_a_lesion_s_map_changes_no_other_lesion_s_attention(kind):
    grader = build(kind)
    image, maps = batch(32)
    changed = maps.clone()
    changed[:, 1] = torch.rand_like(changed[:, 1])
    first, second = (grader(image, each) for each in (maps, changed))
    assert torch.equal(first.attention[:, [0, 2]], second.attention[:, [0, 2]])
    assert not torch.equal(first.attention[:, 1], second.attention[:, 1])
    assert not torch.equal(first.logits, second.logits)


def test_features_of_a_frozen_copy_are_used_instead_of_the_own_ones():
    frozen = build().requires_grad_(False)
    image, maps = batch()
    features = frozen.features(image)
    grader = build()
    whole = grader(image, maps)
    with torch.no_grad():
        for parameter in grader.trunk.low_part.parameters():
            parameter.add_(1.0)
    output = grader(image, maps, features)
    assert torch.equal(output.logits, whole.logits)
    assert torch.equal(output.attention, whole.attention)
    output.logits.square().sum().backward()
    without = {name for name, each in grader.named_parameters() if each.grad is None}
    assert without == {name for name, _ in grader.named_parameters() if name.startswith("trunk.low_part.")}


@pytest.mark.parametrize("kind", ["none", "full"])
def test_without_attention_the_high_part_learns_on_a_given_low_feature(kind):
    grader = build(kind)
    image, maps = batch(32)
    features = grader.features(image)
    inputs = (torch.zeros_like(image), maps if kind == "none" else None)
    logits = grader(*inputs, features._replace(low=features.low.detach(), vector=0 * features.vector)).logits
    assert torch.equal(logits, grader(image).logits)
    logits.square().sum().backward()
    learns = {name.rpartition(".")[0] for name, each in grader.named_parameters() if each.grad is not None}
    assert {name.split(".")[1] for name in learns if name.startswith("trunk.")} == {"high_part"}


def test_the_attention_depends_on_the_vector_only_in_its_full_form():
    image, maps = batch(32)
    for kind in ("mask", "low", "full"):
        grader = build(kind)
        features = grader.features(image)
        outputs = [grader(image, maps, features._replace(vector=scale * features.vector)) for scale in (1, 2)]
        assert torch.equal(outputs[0].attention, outputs[1].attention) == (kind != "full")


def test_a_lesion_of_one_pixel_survives_the_stride():
    grader = build("mask", stride=4)
    maps = torch.zeros(1, LESIONS, 64, 64)
    maps[0, 1, 33, 18] = 0.75
    attention = grader(torch.randn(1, 3, 64, 64), maps).attention
    assert attention[0, 1, 8, 4] == 0.75
    assert attention.sum() == 0.75


def test_batch_norm_takes_its_statistics_over_all_lesions_once():
    grader = build(norm=GlobalBatchNorm, one_by_one=False)
    image, maps = batch()
    seen = []
    with torch.no_grad():
        features = copy.deepcopy(grader).features(image)
    last = grader.trunk.high_part[-1]
    last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    grader(image, maps, features).logits.sum().backward()
    (feature,) = seen
    assert len(feature) == 2 * LESIONS
    torch.testing.assert_close(last.running_mean, 0.1 * feature.mean((0, 2, 3)))


def test_an_ordinal_grader_has_a_logit_between_each_two_grades():
    grader = build(ordinal=True)
    image, maps = batch()
    logits = grader(image, maps).logits
    assert logits.shape == (2, GRADES - 1)
    assert (logits.diff(dim=1) < 0).all()


@pytest.mark.parametrize("kind", ["low", "full"])
def test_every_parameter_of_attention_and_high_part_learns_the_grade(kind):
    grader = build(kind, norm=nn.Identity)
    image, maps = batch()
    grader(image, maps).logits.square().sum().backward()
    assert [name for name, each in grader.named_parameters() if not each.grad.abs().max() > 0] == []


@pytest.mark.parametrize("kind", ["mask", "low", "full"])
def test_attention_to_the_whole_image_grades_at_first_as_without_attention(kind):
    """The head learns without attention first, and must not begin anew with vectors that it does not know."""
    grader = build(kind, refinement="correction")
    image, _ = batch()
    with torch.no_grad():
        alone, attentive = grader(image), grader(image, torch.ones(2, LESIONS, 64, 64))
    assert attentive.attention.min() > 0.99
    torch.testing.assert_close(attentive.logits, alone.logits, rtol=0.01, atol=0.01)
