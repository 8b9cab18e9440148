"""Tests of the consistency sums: float64 references, saturated soft masks, gates, layouts, dtypes, determinism."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.library import opcheck

from uml_kernels import ConsistencySums, consistency_sums
from uml_kernels.operation import INTERPRETED

SHAPES = [(2, 2, 7), (1, 3, 2100), (3, 5, 9, 4), (2, 2, 3, 4, 5), (1, 16, 35)]


def drawn(shape, device, maps, slope=8.0, dtype=torch.float32):
    """Return the tensors for logits of a shape; distances lie where the soft mask is not saturated."""
    generator = torch.Generator().manual_seed(0)

    def normal(channels):
        return torch.randn(shape[0], channels, *shape[2:], generator=generator)

    logits, distance = normal(shape[1]).to(device, dtype), (2 / slope * normal(maps)).to(device, dtype)
    teacher = normal(shape[1]).softmax(1).to(device), (2 / slope * normal(maps)).to(device, dtype)
    mask = torch.rand(shape[0], *shape[2:], generator=generator) < 0.6
    return logits.requires_grad_(), distance.requires_grad_(), *teacher, mask.to(device)


def reference(logits, distance, teacher, teacher_distance, mask, slope):
    """Return the four sums (4, B) composed of torch's operations."""
    probability, soft = logits.softmax(1), torch.sigmoid(-slope * distance)
    cross = (soft - probability[:, probability.shape[1] - soft.shape[1] :]).square().mean(1)
    pairs = ((probability - teacher).square().mean(1), True), ((distance - teacher_distance).square().mean(1), True)
    terms = [each * mask if gated else each for each, gated in (*pairs, (cross, False), (cross, True))]
    return torch.stack([each.flatten(1).sum(1) for each in terms])


def both(tensors, slope):
    """Return sums and gradients of our function and of the float64 reference, for a random upstream gradient."""
    up = torch.randn(4, len(tensors[0]), generator=torch.Generator().manual_seed(1)).to(tensors[0].device)
    found = torch.stack(consistency_sums(*tensors, slope))
    doubles = [each.detach().double().requires_grad_(each.requires_grad) for each in tensors[:4]]
    expected = reference(*doubles, tensors[4], slope)
    return (
        (found, *torch.autograd.grad(found, tensors[:2], up)),
        (expected, *torch.autograd.grad(expected, doubles[:2], up.double())),
    )


def errors(found, expected):
    """Return the largest error of each tensor relative to its largest value."""
    pairs = zip(found, expected, strict=True)
    return [((one.double() - other).abs().max() / other.abs().max()).item() for one, other in pairs]


@pytest.mark.parametrize("slope", [8.0, 1500.0])
@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_and_gradients_match_float64(device, shape, every, slope):
    found, expected = both(drawn(shape, device, shape[1] if every else shape[1] - 1, slope), slope)
    assert max(errors(found, expected)) < 2e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_loses_only_the_rounding_of_its_gradients(device, dtype):
    found, expected = both(drawn((2, 3, 9, 11), device, 2, dtype=dtype), 8.0)
    assert found[1].dtype == found[2].dtype == dtype
    sums, *gradients = errors(found, expected)
    assert sums < 2e-6
    assert max(gradients) < torch.finfo(dtype).eps


@pytest.mark.parametrize("far", [0.1, 1.0, 1e30, torch.inf])
def test_saturated_soft_masks_have_no_gradient_and_stay_finite(device, far):
    distance = torch.tensor([[[-far, far, -far, far]]], device=device, requires_grad=True)
    logits = torch.zeros(1, 2, 4, device=device, requires_grad=True)
    everywhere = torch.zeros(1, 4, dtype=torch.bool, device=device)
    sums = consistency_sums(logits, distance, logits.detach(), distance.detach(), everywhere, 1500.0)
    assert sums.cross.tolist() == [1.0]  # (1 - 0.5)^2 and (0 - 0.5)^2, twice each
    (for_distance,) = torch.autograd.grad(sums.cross, distance)
    assert (for_distance == 0).all()


def test_only_the_gated_sums_follow_the_mask(device):
    tensors = drawn((2, 2, 9), device, 1)
    none = torch.zeros_like(tensors[4])
    some, empty, full = (consistency_sums(*tensors[:4], mask, 8.0) for mask in (tensors[4], none, ~none))
    assert torch.equal(some.cross, empty.cross)
    torch.testing.assert_close(full.gated_cross, full.cross)
    for name in ("segmentation", "distance", "gated_cross"):
        assert (getattr(empty, name) == 0).all()
        assert (getattr(some, name) < getattr(full, name)).all()


def test_values_outside_the_mask_change_neither_gated_sums_nor_gradients(device):
    tensors = drawn((2, 3, 12), device, 2)
    damaged = [each.detach().clone() for each in tensors[2:4]]
    for each in damaged:
        each.transpose(0, 1)[:, ~tensors[4]] = torch.nan
    results = []
    for teacher in (tensors[2:4], damaged):
        sums = consistency_sums(*tensors[:2], *teacher, tensors[4], 8.0)
        results.append((*sums, *torch.autograd.grad([each.sum() for each in sums], tensors[:2])))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_opposite_certain_predictions_differ_by_1_in_every_pixel(device):
    logits = torch.tensor([200.0, -200.0], device=device).view(1, 2, 1).expand(1, 2, 6)
    teacher = torch.tensor([0.0, 1.0], device=device).view(1, 2, 1).expand(1, 2, 6)
    distance, mask = torch.full((1, 1, 6), -1.0, device=device), torch.ones(1, 6, dtype=torch.bool, device=device)
    sums = consistency_sums(logits, distance, teacher, -distance, mask, 1500.0)
    assert [each.item() for each in sums] == [6.0, 24.0, 6.0, 6.0]


def test_teacher_receives_no_gradient(device):
    tensors = drawn((2, 2, 9), device, 2)
    teacher = [each.clone().requires_grad_() for each in tensors[2:4]]
    sums = consistency_sums(*tensors[:2], *teacher, tensors[4], 8.0)
    sum(each.sum() for each in sums).backward()
    assert all(each.grad is None for each in teacher)


def test_channels_last_and_slices_give_the_same_sums(device):
    tensors = drawn((2, 3, 4, 5), device, 2)
    expected, gradients = consistency_sums(*tensors, 8.0), []
    last = [each.detach().contiguous(memory_format=torch.channels_last) for each in tensors[:4]]
    wide = torch.zeros(2, 5, 4, 5, device=device)
    wide[:, 1:4] = tensors[0].detach()
    for logits in (tensors[0], last[0].requires_grad_(), wide[:, 1:4].requires_grad_()):
        sums = consistency_sums(logits, *last[1:], tensors[4], 8.0)
        for one, other in zip(sums, expected, strict=True):
            torch.testing.assert_close(one, other)
        gradients += torch.autograd.grad(sums.segmentation.sum() + sums.cross.sum(), logits)
    for each in gradients[1:]:
        torch.testing.assert_close(each, gradients[0])


def test_runs_are_bitwise_equal(device):
    tensors = drawn((2, 3, 5000), device, 2)
    runs = []
    for _ in range(2):
        sums = torch.stack(consistency_sums(*tensors, 1500.0))
        runs.append((sums, *torch.autograd.grad(sums.sum(), tensors[:2])))
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_nan_logits_and_distances_propagate(device):
    for place in (0, 1):
        tensors = drawn((2, 2, 5), device, 1)
        with torch.no_grad():
            tensors[place][1, 0, 3] = torch.nan
        assert consistency_sums(*tensors, 8.0).cross.isnan().tolist() == [False, True]


@pytest.mark.parametrize("maps", [2, 3])
def test_closed_form_gradients_match_finite_differences(doubles, maps):
    generator = torch.Generator().manual_seed(0)
    logits, teacher, distance, other = (
        torch.randn(2, channels, 2, dtype=torch.float64, generator=generator) for channels in (3, 3, maps, maps)
    )
    mask = torch.tensor([[True, False], [True, True]])

    def function(logits, distance):
        return tuple(consistency_sums(logits, distance, teacher.softmax(1), other, mask, 3.0))

    assert gradcheck(function, (logits.requires_grad_(), distance.requires_grad_()))


def test_wrong_arguments_are_rejected(device):
    logits, distance, teacher, other, mask = drawn((2, 3, 5), device, 2)
    wrong = {
        r"logits \(2, 3, 5\) need \(2, 2, 5\) or \(2, 3, 5\)": (logits, distance[:, :1], teacher, other, mask),
        "teacher_probability has shape": (logits, distance, teacher[:, :2], other, mask),
        "teacher_distance has shape": (logits, distance, teacher, teacher, mask),
        "mask has shape": (logits, distance, teacher, other, mask[:1]),
        "mask has dtype torch.float32; it must be bool": (logits, distance, teacher, other, mask.float()),
        "teacher_distance has dtype torch.int64": (logits, distance, teacher, other.long(), mask),
        "mask is on meta": (logits, distance, teacher, other, mask.to("meta")),
        "have 1 classes": (logits[:, :1], distance, teacher, other, mask),
    }
    for message, arguments in wrong.items():
        with pytest.raises(ValueError, match=message) as error:
            consistency_sums(*arguments, 8.0)
        assert "\n" not in str(error.value)


def test_operators_pass_opcheck(device):
    tensors = drawn((2, 3, 5), device, 2, dtype=torch.bfloat16)
    opcheck(torch.ops.uml_kernels.consistency_sums.default, (*tensors, 8.0), atol=1e-2, rtol=1e-2)
    arguments = (torch.randn(2, 4, device=device), *(each.detach() for each in tensors), 8.0)
    opcheck(torch.ops.uml_kernels.consistency_sums_backward.default, arguments)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter cannot be compiled")
def test_compiled_function_matches_eager(device):
    tensors = drawn((2, 3, 4, 5), device, 2)
    results = []
    for function in (consistency_sums, torch.compile(consistency_sums, fullgraph=True, backend="aot_eager")):
        sums = function(*tensors, 8.0)
        assert isinstance(sums, ConsistencySums)
        results.append((*sums, *torch.autograd.grad([each.sum() for each in sums], tensors[:2])))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
