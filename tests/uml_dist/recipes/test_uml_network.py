"""The UML network: shapes, padding, gradients, checkpointing, dropout by address."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from uml_dist.random import random_address
from uml_dist.recipes.uml.mixer import LevelMixer
from uml_dist.recipes.uml.network import UmlModel, UmlNetwork


def build(seed: int = 0, **settings) -> UmlNetwork:
    torch.manual_seed(seed)
    settings.setdefault("width", 1 / 32)
    return UmlNetwork(UmlModel(**settings), channels=3, pixel_classes=3, image_classes=2)


def run(network, image):
    with random_address(torch.arange(len(image)) + 17):
        return network(image)


def scalar(output):
    """A number that every output of the losses enters."""
    levels = sum(output.level(index).softmax(1)[:, 0].square().mean() for index in range(4))
    return output.class_evidence.square().mean() + output.mutual_evidence.square().mean() + levels


def gradients(network, image):
    network.zero_grad()
    scalar(run(network, image)).backward()
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


def test_outputs_have_their_shapes_and_ranges():
    output = run(build(), torch.randn(2, 3, 32, 48))
    assert output.class_evidence.shape == (2, 2)
    assert output.mutual_evidence.shape == (2, 3, 32, 48)
    assert [tuple(level.shape[1:]) for level in output.segmentation] == [
        (3, 32, 48), (3, 16, 24), (3, 8, 12), (3, 4, 6),
    ]  # fmt: skip
    assert [tuple(mask.shape[1:]) for mask in output.reliable_masks] == [(3, 32, 48), (3, 4, 6)]
    assert [tuple(gate.shape[1:]) for gate in output.gates] == [(1, 32, 48), (1, 4, 6)]
    assert (output.class_evidence >= 0).all()
    assert (output.mutual_evidence >= 0).all()
    for gate in output.gates:
        assert ((gate >= math.exp(-1) - 1e-6) & (gate < 1)).all()


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (31, 45), (50, 9)])
def test_a_size_that_is_no_multiple_of_8_is_padded_and_cropped(size):
    network = build().eval()
    image = torch.randn(1, 3, *size)
    output = network(image)
    assert output.mutual_evidence.shape[2:] == size
    assert all(output.level(index).shape == (1, 3, *size) for index in range(4))
    padded = functional.pad(image, (0, -size[1] % 8, 0, -size[0] % 8), mode="replicate")
    whole = network(padded)
    torch.testing.assert_close(output.class_evidence, whole.class_evidence)
    for index in range(4):
        torch.testing.assert_close(output.level(index), whole.level(index)[..., : size[0], : size[1]])


def test_every_parameter_has_a_gradient():
    grads = gradients(build(), torch.randn(2, 3, 32, 32))
    assert [name for name, gradient in grads.items() if not gradient.abs().max() > 1e-9] == []


def test_checkpointing_changes_no_bit_of_the_gradients_with_dropout_on():
    image = torch.randn(2, 3, 24, 40)
    plain = gradients(build(dropout=0.5), image)
    recomputed = gradients(build(dropout=0.5, checkpointing=True), image)
    undropped = gradients(build(dropout=0.0), image)
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)
    assert any(not torch.equal(plain[name], undropped[name]) for name in plain)


def test_a_sample_does_not_depend_on_the_batch_it_is_in():
    network, image = build(dropout=0.3), torch.randn(4, 3, 32, 32)
    whole = run(network, image)
    with random_address(torch.tensor([19])):
        alone = network(image[2:3])
    torch.testing.assert_close(alone.class_evidence, whole.class_evidence[2:3], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(alone.mutual_evidence, whole.mutual_evidence[2:3], rtol=1e-5, atol=1e-6)


def test_evidence_is_float32_and_finite_under_bf16():
    network, image = build(), torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        output = run(network, image)
    assert output.class_evidence.dtype == output.mutual_evidence.dtype == torch.float32
    scalar(output).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_a_detached_uncertainty_changes_the_gradient_and_not_the_output():
    image, outputs = torch.randn(1, 3, 16, 16), []
    for detach in (False, True):
        torch.manual_seed(0)
        network = UmlNetwork(UmlModel(dropout=0, width=1 / 32), 3, 3, 2, detach_uncertainty=detach)
        output = network(image)
        output.class_evidence.sum().backward()
        outputs.append((output.class_evidence, next(network.mutual.head.parameters()).grad))
    assert torch.equal(outputs[0][0], outputs[1][0])
    assert not torch.equal(outputs[0][1], outputs[1][1])


def test_the_prediction_is_the_opinion_and_the_segmentation():
    output = build().eval()(torch.randn(2, 3, 16, 16))
    prediction = output.prediction()
    torch.testing.assert_close(prediction.image_vacuity, 2 / (2 + output.class_evidence.sum(1)))
    torch.testing.assert_close(prediction.pixel_vacuity, 3 / (3 + output.mutual_evidence.sum(1)))
    torch.testing.assert_close(prediction.pixel_probability, output.segmentation[0].softmax(1))
    torch.testing.assert_close(prediction.image_probability.sum(1), torch.ones(2))


@pytest.mark.parametrize("outputs", [5, None])
def test_the_mixer_is_the_attention_of_the_paper_without_its_widest_tensor(outputs):
    torch.manual_seed(1)
    mixer = LevelMixer(3, 4, 6, outputs).double()
    classified, segmented = torch.randn(2, 3, 5, 7).double(), torch.randn(2, 4, 5, 7).double()

    def conv(weight, feature):
        return torch.einsum("oc,bchw->bohw", weight, feature)

    joined = torch.cat((conv(mixer.project_classified, classified), conv(mixer.project_segmented, segmented)), 1)
    query = conv(mixer.channel_query, joined).flatten(2).softmax(2)
    value = conv(mixer.channel_value.weight, joined).flatten(2)
    channel = torch.sigmoid(mixer.channel_norm(mixer.channel_out((value @ query.transpose(1, 2)).squeeze(2))))
    weighted = joined * channel[:, :, None, None]
    query = conv(mixer.place_query.weight, weighted).mean((2, 3))
    place = torch.sigmoid(torch.einsum("bc,bchw->bhw", query, conv(mixer.place_value, weighted)))
    expected = weighted + place.unsqueeze(1) * weighted
    expected = expected if outputs is None else conv(mixer.out, expected)
    torch.testing.assert_close(mixer(classified, segmented), expected, rtol=1e-12, atol=1e-12)


def test_a_profile_that_is_not_there_is_an_error_that_names_those_that_are():
    with pytest.raises(ValidationError, match="compact"):
        UmlModel(profile="paper")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="extra"):
        UmlModel(depth=3)  # type: ignore[call-arg]


def test_width_scales_the_channels_with_a_floor():
    small, compact = build(width=1 / 64), build(width=None)
    count = [sum(parameter.numel() for parameter in network.parameters()) for network in (small, compact)]
    assert count[0] < count[1] / 10
    assert small.segmentation_encoder.widths == (8, 8, 8, 8)
    assert compact.classification_encoder.widths == (8, 32, 64, 128)
