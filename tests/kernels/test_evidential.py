"""The evidential loss: golden values, accuracy against 60 digits, ignored targets, precision, bad input."""

import numpy as np
import pytest
import torch
from torch.distributions import Dirichlet, kl_divergence

from evidential_reference import expected_cross_entropy as exact_cross_entropy
from evidential_reference import kl_to_uniform as exact_kl
from uml_kernels import evidential_loss, expected_cross_entropy, kl_to_uniform

PAIRS = ((expected_cross_entropy, exact_cross_entropy), (kl_to_uniform, exact_kl))


@pytest.mark.parametrize(
    ("alpha", "target", "cross_entropy", "kl"),
    [
        ((3, 1), 0, 1 / 3, 0.0),
        ((3, 1), 1, 11 / 6, np.log(3) - 2 / 3),
        ((2, 1, 4), 0, 1.45, np.log(10) - 1.35),
        ((1, 1), 0, 1.0, 0.0),
        ((1, 1, 1), 2, 1.5, 0.0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_of_the_specification(alpha, target, cross_entropy, kl, dtype):
    evidence = torch.tensor([alpha], dtype=dtype) - 1
    label = torch.tensor([target])
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    assert expected_cross_entropy(evidence, label).item() == pytest.approx(cross_entropy, rel=tolerance)
    assert kl_to_uniform(evidence, label).item() == pytest.approx(kl, rel=tolerance, abs=1e-12)
    loss = evidential_loss(evidence, label, 0.25)
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(cross_entropy + 0.25 * kl, rel=tolerance)


def cases(classes, lowest, highest):
    """Evidence over the decades, with equal, lonely, mixed and absent evidence among it, and labels."""
    generator = np.random.default_rng(classes)
    evidence = 10 ** generator.uniform(lowest, highest, (32, classes))
    evidence[:8] = 10 ** generator.uniform(-6, highest, (8, classes))
    evidence[8:12] = evidence[8:12, :1]
    evidence[12:16, 1:] = 0
    evidence[16] = 0
    return evidence, torch.from_numpy(generator.integers(0, classes, 32))


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("decades", [(-6, -3), (-3, 0), (0, 3), (3, 6), (6, 8)])
@pytest.mark.parametrize(("function", "exact"), PAIRS)
def test_float32_is_accurate_from_no_evidence_to_1e8(classes, decades, function, exact):
    evidence, target = cases(classes, *decades)
    leaf = torch.tensor(evidence, dtype=torch.float32, requires_grad=True)
    loss = function(leaf, target)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    for row in range(len(target)):
        value, slopes = exact(leaf[row].tolist(), int(target[row]))
        slopes = np.array([float(slope) for slope in slopes])
        assert abs(loss[row].item() - float(value)) <= max(1e-6 * float(value), 2e-6)
        # Relative to the largest component: the exact one crosses zero.
        np.testing.assert_allclose(gradient[row].numpy(), slopes, rtol=0, atol=1e-5 * np.abs(slopes).max())


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize(("function", "exact"), PAIRS)
def test_float64_stays_float64(classes, function, exact):
    evidence, target = cases(classes, -3, 6)
    leaf = torch.tensor(evidence, requires_grad=True)
    loss = function(leaf, target)
    assert loss.dtype == torch.float64
    for row in range(len(target)):
        value, _ = exact(evidence[row].tolist(), int(target[row]))
        assert loss[row].item() == pytest.approx(float(value), rel=1e-13, abs=1e-13)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("function", [expected_cross_entropy, kl_to_uniform])
def test_gradients_are_those_of_the_loss(classes, function):
    generator = torch.Generator().manual_seed(classes)
    evidence = torch.rand(2, classes, 3, 2, dtype=torch.float64, generator=generator) * 5
    target = torch.randint(0, classes, (2, 3, 2), generator=generator)
    target[0, 0, 0] = 255
    assert torch.autograd.gradcheck(lambda e: function(e, target), evidence.requires_grad_())


def test_kl_is_that_of_the_distributions():
    evidence = torch.rand(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 100
    target = torch.arange(20) % 4
    alpha = 1 + evidence.masked_fill(torch.arange(4) == target[:, None], 0)
    expected = kl_divergence(Dirichlet(alpha), Dirichlet(torch.ones(20, 4, dtype=torch.float64)))
    torch.testing.assert_close(kl_to_uniform(evidence, target), expected)
    assert (kl_to_uniform(evidence, target) > 0).all()


@pytest.mark.parametrize("level", [0.0, 1e8])
@pytest.mark.parametrize("classes", [2, 3, 8])
def test_no_evidence_and_too_much_stay_finite(level, classes):
    evidence = torch.full((classes, classes), level, requires_grad=True)
    loss = evidential_loss(evidence, torch.arange(classes), 1.0)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert evidence.grad.isfinite().all()


@pytest.mark.parametrize("ignored", ["some", "all"])
def test_ignored_targets_have_no_loss_and_no_gradient_even_where_evidence_is_not_a_number(ignored):
    target = torch.tensor([[0, 255, 1], [255, 2, 255]], dtype=torch.uint8)
    if ignored == "all":
        target = torch.full_like(target, 255)
    evidence = torch.rand(2, 3, 3)
    evidence = evidence.masked_fill((target == 255).unsqueeze(1), torch.nan).requires_grad_()
    loss = evidential_loss(evidence, target, 0.7)
    loss.sum().backward()
    assert (loss[target == 255] == 0).all()
    assert (evidence.grad.movedim(1, -1)[target == 255] == 0).all()
    assert (loss[target != 255] > 0).all()
    assert (evidence.grad.movedim(1, -1)[target != 255] != 0).any(1).all()


def test_reductions_are_over_the_targets_that_count():
    evidence, target = torch.rand(4, 3), torch.tensor([0, 255, 2, 255])
    each = evidential_loss(evidence, target, torch.tensor(0.5))
    assert evidential_loss(evidence, target, 0.5, reduction="sum").item() == pytest.approx(each.sum().item())
    assert evidential_loss(evidence, target, 0.5, reduction="mean").item() == pytest.approx(each.sum().item() / 2)
    nothing = torch.full((4,), 255)
    assert evidential_loss(evidence, nothing, 0.5, reduction="mean").item() == 0


def test_classes_may_lie_along_any_dimension():
    evidence, target = torch.rand(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    expected = evidential_loss(evidence, target, 0.3)
    for dim in (0, 3, -1):
        moved = evidence.movedim(1, dim).contiguous()
        torch.testing.assert_close(evidential_loss(moved, target, 0.3, dim=dim), expected)


def test_autocast_changes_nothing_but_the_rounding_of_the_input():
    evidence, target = torch.rand(5, 3) * 300, torch.arange(5) % 3
    rounded = evidence.bfloat16()
    expected = evidential_loss(rounded.float(), target, 0.3)
    with torch.autocast("cpu", torch.bfloat16):
        loss = evidential_loss(rounded, target, 0.3)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_a_target_that_is_no_class_gives_nan_and_not_a_number_that_looks_right():
    loss = evidential_loss(torch.rand(3, 2), torch.tensor([0, 2, -1]), 0.5)
    assert loss.isnan().tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("shape", "target", "message"),
    [
        ((4, 3), torch.zeros(4, 1, dtype=torch.int64), "target has shape"),
        ((4, 3), torch.zeros(4), "must be integers"),
        ((4, 1), torch.zeros(4, dtype=torch.int64), "fewer than 2 classes"),
    ],
)
def test_what_does_not_fit_is_refused(shape, target, message):
    with pytest.raises(ValueError, match=message):
        evidential_loss(torch.rand(shape), target, 0.0)
