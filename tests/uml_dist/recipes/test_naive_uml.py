"""The network and its objective are the function that the specification states, outputs and gradients alike."""

from typing import Any

import pytest
import torch
from scipy.special import zeta
from torch import nn

from naive_loss import naive_loss
from naive_state import UNUSED, fill_naive, give_statistics, naive_state
from naive_uml import LevelMixer, NaiveUml, Switches, switches_of
from uml_dist.batch import Batch
from uml_dist.distributed.global_batch import GlobalBatch
from uml_dist.recipes.uml.model import UmlModel
from uml_dist.recipes.uml.network import UmlNetwork, UmlOutput
from uml_dist.recipes.uml.objective import UmlObjective, counts, uml_terms

FRACTION = 0.2
MODELS = {
    "release": {"profile": "release"},
    "paper": {"profile": "paper"},
    "paper with weights": {
        "profile": "release",
        "frozen_epsilon": 1e-5,
        "decoder_norm": "group",
        "head": "adapted",
        "initialisation": "unit_gain",
    },
    "compact as the paper has it": {"profile": "compact", "space_to_depth": 1, "evidence": "softplus"},
}
SIZES = [(32, 48), (56, 40)]


def model_of(name: str) -> UmlModel:
    return UmlModel.model_validate({**MODELS[name], "width": 1 / 16, "dropout": 0.0})


def batch_of(samples: int, height: int, width: int, dtype: torch.dtype) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        image=torch.randn(samples, 3, height, width, generator=generator).to(dtype),
        mask=torch.randint(0, 3, (samples, height, width), generator=generator).to(torch.uint8),
        label=torch.randint(0, 2, (samples,), generator=generator),
        weight=torch.ones(samples),
        rng_key=torch.arange(samples),
        position=torch.arange(samples),
        keys=tuple(map(str, range(samples))),
    )


def make(name: str, batch: Batch, switches: Switches | None = None) -> tuple[UmlNetwork, NaiveUml]:
    """A network and the reference with its weights, in the batch's dtype."""
    torch.manual_seed(0)
    model = model_of(name)
    network = UmlNetwork(model, 3, 3, 2).to(batch.image.dtype)
    give_statistics(network, batch.image)
    naive = NaiveUml(model, 3, 3, 2, switches or switches_of(model)).to(batch.image.dtype)
    fill_naive(naive, network)
    return network, naive


class Digamma(torch.autograd.Function):
    """Digamma with a derivative to the last digit; torch knows trigamma to 5e-10 only."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(x)
        return torch.digamma(x)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = context.saved_tensors
        return gradient * torch.from_numpy(zeta(2, x.numpy())).to(x.dtype)


def loss_of(output: UmlOutput, batch: Batch) -> torch.Tensor:
    return uml_terms(output, batch, GlobalBatch([counts(batch)]), UmlObjective(), FRACTION)["loss"]


def relative(ours: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, in units of the expected tensor's scale."""
    return ((ours - expected).abs().max() / expected.abs().max()).item()


def named(output: UmlOutput) -> dict[str, torch.Tensor]:
    pairs = {name: getattr(output, name) for name in ("class_logits", "mutual_logits", "mutual_vacuity")}
    for name in ("segmentation", "reliable_masks", "gates"):
        pairs |= {f"{name} {index}": each for index, each in enumerate(getattr(output, name))}
    return pairs


def errors(ours: UmlOutput, expected: UmlOutput) -> dict[str, float]:
    theirs = named(expected)
    return {name: relative(each, theirs[name]) for name, each in named(ours).items()}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_are_those_of_the_specification(name, size):
    check(name, batch_of(2, *size, torch.float64), 1e-9, 1e-9)


@pytest.mark.parametrize("name", ["paper", "compact as the paper has it"])
def test_so_they_are_in_float32(name):
    """Its rounding grows with the depth of the encoders, and where a ReLU turns it is a jump."""
    check(name, batch_of(2, 32, 48, torch.float32), 1e-5, 1e-4)


def check(name: str, batch: Batch, tolerance: float, gradient_tolerance: float) -> None:
    network, naive = make(name, batch)
    output, expected = network(batch.image), naive(batch.image)
    assert {key: error for key, error in errors(output, expected).items() if not error < tolerance} == {}

    loss = loss_of(output, batch)
    expected_loss = naive_loss(expected, batch.mask, batch.label, UmlObjective().kl_weight(FRACTION), Digamma.apply)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=tolerance)
    loss.backward()
    expected_loss.backward()
    ours = naive_state({key: parameter.grad for key, parameter in network.named_parameters()})
    theirs = {key: parameter.grad for key, parameter in naive.named_parameters() if not UNUSED.fullmatch(key)}
    assert ours.keys() == theirs.keys()
    # What a bias before batch norm has is rounding alone.
    least = 1e-6 * max(gradient.norm() for gradient in theirs.values())
    found = {key: ((ours[key] - each).norm() / each.norm().clamp(min=least)).item() for key, each in theirs.items()}
    assert {key: error for key, error in found.items() if not error < gradient_tolerance} == {}


def test_the_profile_release_is_the_reference_as_published():
    """Without any switch, also in evaluation after a step has moved the statistics of batch norm."""
    batch = batch_of(2, 32, 48, torch.float64)
    network, naive = make("release", batch, Switches())
    for module in (network, naive):
        module(batch.image)
        module.eval()
    found = errors(network(batch.image.flip(3)), naive(batch.image.flip(3)))
    assert {key: error for key, error in found.items() if not error < 1e-9} == {}


def test_the_last_bias_is_absorbed_and_softmax_cancels_the_query_s():
    """The two biases of the published mixer that the network does without."""
    torch.manual_seed(0)
    mixer, classified, segmented = LevelMixer(8, 8, 16, 8).double(), *torch.randn(2, 2, 8, 6, 7).double()
    expected = mixer(classified, segmented)
    with torch.no_grad():
        moved = mixer.channel_out.weight.flatten(1) @ mixer.channel_value.bias
        mixer.channel_out.bias += moved
        nn.init.zeros_(mixer.channel_value.bias)
        nn.init.constant_(mixer.channel_query.bias, 3.0)
    assert relative(mixer(classified, segmented), expected) < 1e-12


@pytest.mark.parametrize("name", MODELS)
def test_a_state_fills_every_parameter_of_the_reference(name):
    network, naive = make(name, batch_of(2, 32, 32, torch.float32))
    given = naive_state(network.state_dict())
    assert sorted(key for key in naive.state_dict() if not UNUSED.fullmatch(key)) == sorted(given)
