"""The network and its objective are the function that the specification states, outputs and gradients alike."""

import pytest
import torch
from torch.func import functional_call

from naive_uml import NaiveUml, naive_loss, naive_state
from uml_dist.batch import Batch
from uml_dist.recipes.uml.model import UmlModel
from uml_dist.recipes.uml.network import UmlNetwork, UmlOutput
from uml_dist.recipes.uml.objective import UmlObjective, counts, uml_terms
from uml_dist.reduce import GlobalBatch

# Of outputs and of gradients: torch knows trigamma to 5e-10 only, and the depth of the paper's encoders multiplies what
# float32 rounds.
TOLERANCES = [(torch.float64, 1e-12, 1e-8), (torch.float32, 1e-5, 1e-4)]


def make(profile: str, dtype: torch.dtype) -> tuple[UmlNetwork, NaiveUml]:
    torch.manual_seed(0)
    model = UmlModel.model_validate({"profile": profile, "width": 1 / 16, "dropout": 0.0})
    return UmlNetwork(model, 3, 3, 2).to(dtype), NaiveUml(model, 3, 3, 2).to(dtype)


def batch_of(samples: int, height: int, width: int, dtype: torch.dtype) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        image=torch.randn(samples, 3, height, width, generator=generator).to(dtype),
        mask=torch.randint(0, 3, (samples, height, width), generator=generator).to(torch.uint8),
        label=torch.randint(0, 2, (samples,), generator=generator),
        weight=torch.ones(samples),
        address=torch.arange(samples),
        position=torch.arange(samples),
        keys=tuple(map(str, range(samples))),
    )


def loss_of(output: UmlOutput, batch: Batch, fraction: float) -> torch.Tensor:
    objective = UmlObjective()
    return uml_terms(output, batch, GlobalBatch([counts(batch)]), objective, fraction)["loss"]


def relative(ours: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, in units of the expected tensor's scale."""
    return ((ours - expected).abs().max() / expected.abs().max()).item()


def named(output: UmlOutput) -> dict[str, torch.Tensor]:
    pairs = {name: getattr(output, name) for name in ("class_logits", "mutual_logits", "mutual_vacuity")}
    for name in ("segmentation", "reliable_masks", "gates"):
        pairs |= {f"{name} {index}": each for index, each in enumerate(getattr(output, name))}
    return pairs


@pytest.mark.parametrize("profile", ["compact", "paper"])
@pytest.mark.parametrize(("dtype", "tolerance", "gradient_tolerance"), TOLERANCES)
def test_outputs_and_gradients_are_those_of_the_specification(profile, dtype, tolerance, gradient_tolerance):
    network, naive = make(profile, dtype)
    batch, fraction = batch_of(2, 32, 48, dtype), 0.2
    output = network(batch.image)
    expected = functional_call(naive, naive_state(dict(network.named_parameters())), batch.image, strict=True)
    theirs = named(expected)
    found = {name: relative(ours, theirs[name]) for name, ours in named(output).items()}
    assert {name: error for name, error in found.items() if not error < tolerance} == {}

    names, parameters = zip(*network.named_parameters(), strict=True)
    loss = loss_of(output, batch, fraction)
    expected_loss = naive_loss(expected, batch.mask, batch.label, UmlObjective().kl_weight(fraction))
    assert loss.item() == pytest.approx(expected_loss.item(), rel=tolerance)
    ours, theirs = torch.autograd.grad(loss, parameters), torch.autograd.grad(expected_loss, parameters)
    found = {name: ((a - b).norm() / b.norm()).item() for name, a, b in zip(names, ours, theirs, strict=True)}
    assert {name: error for name, error in found.items() if not error < gradient_tolerance} == {}


@pytest.mark.parametrize("profile", ["compact", "paper"])
def test_a_state_fills_every_parameter_of_the_naive_network(profile):
    network, naive = make(profile, torch.float32)
    missing, unexpected = naive.load_state_dict(naive_state(network.state_dict()), strict=False)
    assert (missing, unexpected) == ([], [])
