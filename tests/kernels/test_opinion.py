"""Tests of `opinion` and `predictive_maps`: subjective logic, float64 references, memory layouts, gradients."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from eager_losses import eager_evidence
from uml_kernels.operation import INTERPRETED
from uml_kernels.opinion import opinion, predictive_maps

SHAPES = [
    ((2, 2, 7), 1),
    ((1, 3, 423), 1),
    ((5, 4), 1),
    ((3, 5, 7, 2), -1),
    ((2, 5, 16, 3), 2),
    ((3,), 0),
    ((4, 1, 6), 0),
]
KINDS = ["softplus", "relu", "exp", "given"]


def draw(shape, device, spread=4.0, seed=0, kind="softplus"):
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * spread
    return (drawn.abs() if kind == "given" else drawn).to(device)


def reference(logits, kind="softplus", dim=1):
    """Compute evidence, vacuity and gate by torch's own operations."""
    evidence = eager_evidence(logits, kind)
    vacuity = logits.shape[dim] / (evidence + 1).sum(dim)
    return evidence, vacuity, torch.exp(-vacuity)


def parts(formed):
    return formed.evidence, formed.vacuity, formed.gate


def gradient(outputs, logits, cotangents):
    chosen = [(each, up) for each, up in zip(outputs, cotangents, strict=True) if up is not None]
    return torch.autograd.grad([each for each, _ in chosen], logits, [up.to(each.dtype) for each, up in chosen])[0]


def agree(actual, expected, relative=2e-6, absolute=1e-6):
    torch.testing.assert_close(actual.double().cpu(), expected.double().cpu(), rtol=relative, atol=absolute)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_opinion_and_gradient_match_float64_torch_operations(device, shape, dim, kind):
    logits = draw(shape, device, kind=kind).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    actual, expected = parts(opinion(logits, kind, dim)), reference(exact, kind, dim)
    for got, known in zip(actual, expected, strict=True):
        assert got.shape == known.shape
        assert got.dtype == torch.float32
        agree(got, known)
    cotangents = [draw(each.shape, device, 1.0, seed + 1) for seed, each in enumerate(actual)]
    agree(gradient(actual, logits, cotangents), gradient(expected, exact, cotangents), 1e-5, 2e-6)


@pytest.mark.parametrize("used", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)])
def test_unused_outputs_do_not_contribute_to_the_gradient(device, used):
    logits = draw((2, 3, 33), device).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    actual, expected = parts(opinion(logits)), reference(exact)
    cotangents = [
        draw(each.shape, device, 1.0, seed) if use else None
        for seed, (each, use) in enumerate(zip(actual, used, strict=True))
    ]
    agree(gradient(actual, logits, cotangents), gradient(expected, exact, cotangents), 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_only_the_logits_and_their_gradient(device, dtype):
    half = draw((2, 3, 257), device).to(dtype).requires_grad_()
    full = half.detach().float().requires_grad_()
    actual, expected = parts(opinion(half)), parts(opinion(full))
    for got, known in zip(actual, expected, strict=True):
        assert torch.equal(got, known)
    cotangents = [draw(each.shape, device, 1.0, seed) for seed, each in enumerate(actual)]
    got = gradient(actual, half, cotangents)
    assert got.dtype == dtype
    # The interpreter truncates to bfloat16, whereas a GPU rounds
    agree(got, gradient(expected, full, cotangents), 2 * torch.finfo(dtype).eps, 1e-7)


@pytest.mark.parametrize("form", ["last", "sliced", "turned"])
def test_memory_layout_does_not_change_values(device, form):
    dense = draw((2, 3, 9, 11), device)
    if form == "last":
        laid = dense.contiguous(memory_format=torch.channels_last)
    elif form == "sliced":
        laid = torch.stack((dense, dense), 4)[..., 0]
    else:
        laid = dense.transpose(2, 3).contiguous().transpose(2, 3)
    assert laid.stride() != dense.stride()
    dense, laid = dense.requires_grad_(), laid.requires_grad_()
    known, formed = parts(opinion(dense)), parts(opinion(laid))
    cotangents = [draw(each.shape, device, 1.0, seed) for seed, each in enumerate(known)]
    cotangents[0] = cotangents[0].contiguous(memory_format=torch.channels_last)
    for got, expected in zip(formed, known, strict=True):
        agree(got, expected)
    slope = gradient(formed, laid, cotangents)
    agree(slope, gradient(known, dense, cotangents))
    if form == "last":
        assert formed[0].stride() == slope.stride() == laid.stride()
    for got, expected in zip(predictive_maps(laid), predictive_maps(dense), strict=True):
        if expected is not None:
            agree(got, expected)


def test_beliefs_and_vacuity_sum_to_one(device):
    formed = opinion(draw((4, 3, 5, 6), device))
    torch.testing.assert_close(formed.belief.sum(1) + formed.vacuity, torch.ones(4, 5, 6, device=device))
    torch.testing.assert_close(formed.probability, formed.belief + formed.vacuity.unsqueeze(1) / 3)
    torch.testing.assert_close(formed.strength, formed.alpha.sum(1))
    assert ((formed.vacuity > 0) & (formed.vacuity <= 1)).all()


def test_derived_properties_are_differentiable(device):
    logits = draw((2, 4, 6), device).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    for name in ("probability", "strength", "belief"):
        evidence, vacuity, _ = reference(exact)
        inverse = vacuity / 4
        expected = {"belief": evidence * inverse[:, None], "probability": (evidence + 1) * inverse[:, None]}
        expected = expected.get(name, 1 / inverse)
        actual = getattr(opinion(logits), name)
        agree(actual, expected)
        up = draw(actual.shape, device, 1.0)
        agree(gradient([actual], logits, [up]), gradient([expected], exact, [up]), 1e-5)


def test_zero_evidence_gives_full_vacuity_and_uniform_probability(device):
    formed = opinion(torch.zeros(2, 4, device=device), "given")
    agree(formed.vacuity, torch.ones(2))
    agree(formed.probability, torch.full((2, 4), 0.25))
    assert formed.gate[0].item() == pytest.approx(math.exp(-1))
    agree(predictive_maps(torch.zeros(2, 4, device=device), "given").entropy, torch.full((2,), math.log(4)))


def test_more_evidence_reduces_vacuity_and_opens_the_gate(device):
    base = torch.rand(3, device=device)
    for index in range(3):
        before = opinion(base[None], "given")
        after = opinion((base + torch.eye(3, device=device)[index])[None], "given")
        assert after.vacuity < before.vacuity
        assert math.exp(-1) <= before.gate.item() < after.gate.item() < 1


def test_extreme_logits_give_finite_opinions_and_evidence_up_to_1e9(device):
    logits = torch.tensor([[-1e30, -200.0, 0.0, 200.0, 1e30]] * 2, device=device).t().contiguous()
    for kind in KINDS[:3]:
        leaf = logits.clone().requires_grad_()
        formed = opinion(leaf, kind)  # type: ignore[arg-type]
        slope = gradient(parts(formed), leaf, [torch.ones_like(each) for each in parts(formed)])
        for each in (*parts(formed), *predictive_maps(leaf, kind)[2:], slope):  # type: ignore[arg-type]
            assert each.isfinite().all()
        assert formed.evidence.max() <= 1e9
        assert formed.evidence.min() >= 0


@pytest.mark.parametrize("kind", ["softplus", "relu", "exp"])
@pytest.mark.parametrize("classes", [2, 3, 16])
def test_predictive_maps_match_float64_torch_operations(device, classes, kind):
    logits = draw((2, classes, 129), device, 3.0)
    maps, labelled = predictive_maps(logits, kind), predictive_maps(logits, kind, classes=True)
    alpha = eager_evidence(logits.double(), kind) + 1
    probability = alpha / alpha.sum(1, keepdim=True)
    agree(maps.probability, probability)
    agree(maps.vacuity, classes / alpha.sum(1))
    agree(maps.entropy, -(probability * probability.log()).sum(1))
    assert maps.label is None
    assert labelled.probability is None
    assert labelled.label.dtype == torch.uint8
    assert torch.equal(labelled.label.long(), probability.argmax(1))
    assert torch.equal(labelled.entropy, maps.entropy)
    assert torch.equal(labelled.vacuity, maps.vacuity)


def test_entropy_near_certainty_is_accurate(device):
    evidence = torch.tensor([[1e3, 0.0], [0.5, 3e5], [1e7, 2.0], [1e8, 1e8]], device=device)
    alpha = evidence.double() + 1
    share = alpha / alpha.sum(1, keepdim=True)
    expected = torch.special.entr(share).sum(1)
    agree(predictive_maps(evidence, "given").entropy, expected, 2e-6, 0)


def test_ties_are_labelled_with_the_lowest_class(device):
    logits = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0], [-1.0, -2.0, -3.0]], device=device)
    assert predictive_maps(logits, "relu", classes=True).label.tolist() == [0, 1, 0]


def test_nan_logits_stay_nan_and_have_no_label(device):
    for kind in KINDS:
        for place in range(3):
            logits = torch.ones(2, 3, 5, device=device)
            logits[1, place, 2] = torch.nan
            formed, maps = opinion(logits, kind), predictive_maps(logits, kind)
            assert formed.evidence[1, place, 2].isnan()
            assert maps.probability[1, :, 2].isnan().all()
            for each in (formed.vacuity, formed.gate, maps.vacuity, maps.entropy):
                assert each[1, 2].isnan()
                assert each.isnan().sum() == 1
            label = predictive_maps(logits, kind, classes=True).label
            assert label[1, 2] == 255
            assert (label == 255).sum() == 1


def test_autocast_does_not_change_results(device):
    logits = draw((2, 3, 65), device)
    known, maps = opinion(logits), predictive_maps(logits)
    with torch.autocast(device.type, torch.bfloat16):
        formed, again = opinion(logits), predictive_maps(logits)
    for got, expected in zip((*parts(formed), again.entropy), (*parts(known), maps.entropy), strict=True):
        assert torch.equal(got, expected)


def test_two_runs_are_bitwise_equal(device):
    logits = draw((2, 3, 1023), device).requires_grad_()
    runs = [parts(opinion(logits)) for _ in range(2)]
    cotangents = [draw(each.shape, device, 1.0, seed) for seed, each in enumerate(runs[0])]
    first, second = [(*each, gradient(each, logits, cotangents)) for each in runs]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_zero_pixels_give_empty_opinions(device):
    assert opinion(torch.zeros(0, 3, 5, device=device)).vacuity.shape == (0, 5)
    assert predictive_maps(torch.zeros(2, 3, 0, device=device)).entropy.shape == (2, 0)
    assert opinion(torch.zeros(0, 3, device=device)).evidence.shape == (0, 3)


def test_predictive_maps_have_no_gradient(device):
    maps = predictive_maps(draw((2, 3, 5), device).requires_grad_())
    assert not maps.probability.requires_grad
    assert not maps.entropy.requires_grad


def test_invalid_logits_are_rejected(device):
    for bad, dim, kind, message in (
        (torch.zeros(2, 1, 3), 1, "softplus", "1 classes along dimension 1"),
        (torch.zeros(2, 17), 1, "softplus", "17 classes"),
        (torch.zeros(2, 3), 2, "softplus", "no dimension 2"),
        (torch.zeros(2, 3, dtype=torch.int64), 1, "softplus", "must be floating"),
        (torch.zeros(2, 3), 1, "square", "choose softplus, relu, exp or given"),
    ):
        for function in (opinion, predictive_maps):
            with pytest.raises(ValueError, match=message):
                function(bad.to(device), kind, dim)


def test_operators_pass_opcheck(device):
    from torch.library import opcheck

    logits = draw((2, 3, 5), device).requires_grad_()
    library = torch.ops.uml_kernels
    opcheck(library.opinion.default, (logits, "softplus"))
    plain = logits.detach().transpose(1, 2).contiguous().transpose(1, 2)
    opcheck(library.opinion_backward.default, (plain, draw((2, 3, 5), device), None, plain[:, 0], "exp"))
    for classes in (False, True):
        opcheck(library.predictive_maps.default, (plain, "relu", classes))


@pytest.mark.parametrize("kind", ["softplus", "exp"])
def test_closed_form_gradients_match_finite_differences(doubles, kind):
    logits = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: parts(opinion(x, kind)), logits)
    assert parts(opinion(logits))[0].dtype == torch.float64


@pytest.mark.skipif(INTERPRETED, reason="the interpreter cannot be compiled")
def test_compiled_function_matches_eager(device):
    def function(x):
        formed = opinion(x)
        return (formed.probability * formed.gate.unsqueeze(1)).square().sum() + predictive_maps(x).entropy.sum()

    results = []
    for each in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
        logits = draw((2, 3, 5, 7), device).requires_grad_()
        value = each(logits)
        value.backward()
        results.append((value.detach(), logits.grad))
    for got, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, expected)
