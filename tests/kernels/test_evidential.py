"""Tests of the evidential objective: golden values, a 60-digit reference, and plain torch in float64."""

import os

import numpy as np
import pytest
import torch

from eager_losses import eager_dice, eager_evidence, eager_terms, shares
from evidential_reference import expected_cross_entropy as exact_cross_entropy
from evidential_reference import kl_to_uniform as exact_kl
from pixel_terms import pixel_terms
from uml_kernels import evidential_loss, evidential_sums, table

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(shape, classes, device, seed=0, dtype=torch.float32):
    """Draw logits (B, C, *S) in -8..8 and class indices, some of them ignored."""
    logits = (torch.rand(shape[0], classes, *shape[1:], generator=generator(seed)) - 0.5) * 16
    target = torch.randint(0, classes, shape, generator=generator(seed + 1), dtype=torch.uint8)
    target[torch.rand(shape, generator=generator(seed + 2)) < 0.2] = 255
    return logits.to(device, dtype), target.to(device)


def reference(logits, target, kind="softplus", dice="softmax", weight=None, class_weight=None):
    """Return all sums in float64 (B, 4 + 3 C), differentiable, and the terms of each pixel."""
    hot = shares(target, logits.shape[1]) if not target.is_floating_point() else target.double()
    counted = torch.ones_like(hot[:, 0]) if target.is_floating_point() else (target != 255).double()
    counted = counted if weight is None else counted * weight.double()
    factor = counted
    if class_weight is not None:
        factor = counted * (hot * class_weight.double().view(-1, *[1] * (hot.dim() - 2))).sum(1)
    cross_entropy, kl, vacuity = eager_terms(logits, hot, kind)
    evidence = eager_evidence(logits, kind)
    probability = evidence.softmax(1) if dice == "softmax" else (evidence + 1) / (evidence + 1).sum(1, keepdim=True)
    columns = [
        (factor * each).reshape(len(kl), -1).sum(1)[:, None]
        for each in (torch.ones_like(kl), cross_entropy, kl, vacuity)
    ]
    if dice != "none":
        columns += eager_dice(probability, hot, counted).unbind(0)
    return torch.cat(columns, 1), (factor, cross_entropy, kl, vacuity)


def columns(sums):
    """Return `EvidentialSums` as one tensor."""
    first = [each[:, None] for each in (sums.count, sums.cross_entropy, sums.kl, sums.vacuity)]
    return torch.cat([*first, *(sums.dice or ())], 1)


def check_sums(logits, target, tolerance=1e-5, **options):
    """Check sums and gradient for a random upstream gradient against float64."""
    leaf = logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    exact_leaf = logits.detach().double().requires_grad_()
    got = columns(evidential_sums(leaf, target, **options))
    wanted, _ = reference(exact_leaf, target, **options)
    scale = wanted.detach().abs().amax(0).clamp(min=1)
    assert ((got.double() - wanted).abs() <= tolerance * scale).all(), (got.double() - wanted).abs() / scale
    upstream = torch.randn(got.shape, generator=generator(9)).to(got.device)
    upstream[:, [0, 3]] = 0  # counts and vacuities have no gradient
    got.backward(upstream)
    wanted.backward(upstream.double())
    # Triton's interpreter truncates to bfloat16 instead of rounding.
    rounding = {torch.float32: 0, torch.bfloat16: 2**-7 if INTERPRETED else 2**-8, torch.float16: 2**-10}[logits.dtype]
    error = (leaf.grad.double() - exact_leaf.grad).abs()
    allowed = tolerance * exact_leaf.grad.abs().amax() + rounding * exact_leaf.grad.abs()
    assert (error <= allowed).all(), error.max()
    assert leaf.grad.dtype == logits.dtype


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
def test_sums_match_analytical_values(device, alpha, target, cross_entropy, kl):
    evidence = torch.tensor([alpha], dtype=torch.float32, device=device) - 1
    sums = evidential_sums(evidence, torch.tensor([target], device=device), kind="given")
    assert sums.cross_entropy.item() == pytest.approx(cross_entropy, rel=1e-6)
    assert sums.kl.item() == pytest.approx(kl, rel=1e-6, abs=1e-6)
    assert sums.vacuity.item() == pytest.approx(len(alpha) / sum(alpha), rel=1e-6)


def cases(classes, lowest, highest):
    """Draw evidence over the decades, including equal, single, mixed and absent evidence, and labels."""
    random = np.random.default_rng(classes)
    evidence = 10 ** random.uniform(lowest, highest, (32, classes))
    evidence[:8] = 10 ** random.uniform(-6, highest, (8, classes))
    evidence[8:12] = evidence[8:12, :1]
    evidence[12:16, 1:] = 0
    evidence[16] = 0
    return evidence, torch.from_numpy(random.integers(0, classes, 32))


@pytest.fixture(params=["exact", "approximate"])
def units(request):
    """The interpreter's units: exact, or with the documented errors of a GPU's approximate units."""
    if request.param == "exact":
        yield
    elif not INTERPRETED:
        pytest.skip("the interpreter's units can be disturbed; a GPU has its own")
    else:
        from special_kernel import disturbed

        with disturbed():
            yield


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 5, 8])
@pytest.mark.parametrize("decades", [(-6, -3), (-3, 0), (0, 3), (3, 6), (6, 8)])
def test_float32_is_accurate_from_no_evidence_to_1e8(device, classes, decades, soft):
    evidence, label = cases(classes, *decades)
    evidence = torch.tensor(evidence, dtype=torch.float32, device=device)
    target = torch.nn.functional.one_hot(label, classes).float() if soft else label
    values, gradients = pixel_terms(evidence, target.to(device))
    for row, each in enumerate(label.tolist()):
        for value, gradient, exact in zip(values, gradients, (exact_cross_entropy, exact_kl), strict=True):
            wanted, slopes = exact(evidence[row].tolist(), each)
            slopes = np.array([float(slope) for slope in slopes])
            assert abs(value[row].item() - float(wanted)) <= max(1e-6 * float(wanted), 2e-6)
            # Relative to the largest component, because the exact gradient crosses zero
            np.testing.assert_allclose(gradient[row].cpu().numpy(), slopes, rtol=0, atol=1e-5 * np.abs(slopes).max())


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize(("term", "exact"), [(0, exact_cross_entropy), (1, exact_kl)])
def test_float64_stays_float64(doubles, classes, term, exact):
    evidence, label = cases(classes, -3, 6)
    sums = evidential_sums(torch.tensor(evidence), label, kind="given", dice="none")
    loss = (sums.cross_entropy, sums.kl)[term]
    assert loss.dtype == torch.float64
    for row, each in enumerate(label.tolist()):
        value, _ = exact(evidence[row].tolist(), each)
        assert loss[row].item() == pytest.approx(float(value), rel=1e-13, abs=1e-13)


@pytest.mark.parametrize("shape", [(3,), (2, 1), (1, 7), (2, 423), (1, 33, 31), (2, 5, 6, 7)])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_sums_of_any_number_of_dimensions(device, shape, classes):
    check_sums(*drawn(shape, classes, device))


@pytest.mark.parametrize("classes", [8, 16])
def test_sums_of_many_classes(device, classes):
    check_sums(*drawn((1, 1023), classes, device))


@pytest.mark.parametrize("kind", ["softplus", "exp", "relu", "given"])
@pytest.mark.parametrize("dice", ["softmax", "expected", "none"])
def test_sums_of_every_evidence_kind_and_dice_probability(device, kind, dice):
    logits, target = drawn((2, 130), 3, device)
    check_sums(logits.abs() if kind == "given" else logits, target, kind=kind, dice=dice)


def test_map_of_several_blocks_and_programs(device):
    check_sums(*drawn((2, 65, 67), 2, device))


def test_program_with_several_blocks(device, monkeypatch):
    monkeypatch.setattr(table, "BUSY", 0)  # treat this map as large enough to keep a GPU busy
    check_sums(*drawn((2, 65, 67), 2, device))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_errors_are_only_rounding(device, dtype):
    check_sums(*drawn((2, 300), 3, device, dtype=dtype))


@pytest.mark.parametrize("layout", ["channels_last", "strided", "expanded"])
def test_any_memory_layout_is_supported(device, layout):
    logits, target = drawn((2, 9, 14), 3, device)
    if layout == "channels_last":
        logits = logits.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        logits, target = logits[..., ::2], target[..., ::2]
    else:
        logits = logits[:1].expand(2, -1, -1, -1)
    check_sums(logits, target)
    if layout == "channels_last":
        leaf = logits.detach().requires_grad_()
        evidential_sums(leaf, target).kl.sum().backward()
        assert leaf.grad.stride() == leaf.stride()


def test_leading_dimensions_are_separate_samples(device):
    logits, target = drawn((6, 5, 7), 2, device)
    one = evidential_sums(logits.reshape(2, 3, 2, 5, 7), target.reshape(2, 3, 5, 7), dim=2)
    assert torch.equal(columns(one), columns(evidential_sums(logits, target)))
    loss = evidential_loss(logits.reshape(2, 3, 2, 5, 7), target.reshape(2, 3, 5, 7), 0.3, dim=2, reduction="none")
    assert loss.shape == (2, 3, 5, 7)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_soft_labels_match_the_reference(device, classes):
    logits, _ = drawn((2, 57), classes, device)
    shares = torch.rand(2, classes, 57, generator=generator(3)).to(device)
    check_sums(
        logits, shares / shares.sum(1, keepdim=True), weight=torch.rand(2, 57, generator=generator(4)).to(device)
    )


def test_one_hot_soft_labels_match_class_indices(device):
    logits, _ = drawn((2, 40), 3, device)
    target = torch.randint(0, 3, (2, 40), generator=generator(1)).to(device)
    hot = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    hard, soft = columns(evidential_sums(logits, target)), columns(evidential_sums(logits, hot))
    torch.testing.assert_close(hard, soft, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("number", [torch.uint8, torch.int64])
def test_pixel_and_class_weights(device, number):
    logits, target = drawn((2, 131), 3, device)
    weight = torch.rand(2, 131, generator=generator(3)).to(device)
    weight[:, ::5] = 0
    check_sums(logits, target.to(number), weight=weight, class_weight=torch.tensor([0.5, 1.0, 4.0], device=device))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_and_gradients_for_random_upstream_gradients(device, reduction, weighted):
    logits, target = drawn((2, 9, 13), 3, device)
    options = {}
    if weighted:
        options = {
            "weight": torch.rand(2, 9, 13, generator=generator(3)).to(device),
            "class_weight": torch.tensor([0.5, 1.0, 4.0], device=device),
        }
    leaf, exact_leaf = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss = evidential_loss(leaf, target, torch.tensor(0.3, device=device), reduction=reduction, **options)
    _, (factor, cross_entropy, kl, _) = reference(exact_leaf, target, **options)
    wanted = factor * (cross_entropy + 0.3 * kl)
    if reduction != "none":
        wanted = wanted.sum() / (factor.sum() if reduction == "mean" else 1)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-5)
    upstream = torch.randn(loss.shape, generator=generator(5)).to(device)
    for _ in range(2):  # the second backward must not depend on buffers of the first
        leaf.grad = exact_leaf.grad = None
        loss.backward(upstream, retain_graph=True)
        wanted.backward(upstream.double(), retain_graph=True)
        error = (leaf.grad.double() - exact_leaf.grad).abs().max()
        assert error <= 1e-5 * exact_leaf.grad.abs().max()


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_loss_in_inference_mode_is_the_same(device, reduction):
    logits, target = drawn((2, 100), 2, device)
    expected = evidential_loss(logits.clone().requires_grad_(), target, 0.3, reduction=reduction)
    with torch.inference_mode():
        loss, vacuity = evidential_loss(logits, target, 0.3, reduction=reduction, return_vacuity=True)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-6, atol=1e-6)
    _, (_, _, _, wanted) = reference(logits.double(), target)
    torch.testing.assert_close(vacuity.double(), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_ignored_pixels_have_no_loss_and_gradient_even_with_nan_logits(device, reduction):
    logits, target = drawn((2, 50), 3, device)
    logits[:, :, 7] = torch.nan
    target[:, 7] = 255
    clean = logits.nan_to_num()
    losses = []
    for each in (logits, clean):
        leaf = each.clone().requires_grad_()
        loss = evidential_loss(leaf, target, 0.3, reduction=reduction)
        loss.sum().backward()
        assert (leaf.grad.movedim(1, -1)[target == 255] == 0).all()
        losses.append((loss.detach(), leaf.grad))
    assert torch.equal(losses[0][0], losses[1][0])
    assert torch.equal(losses[0][1], losses[1][1])


def test_all_pixels_ignored_gives_zero(device):
    logits, target = drawn((2, 50), 2, device)
    leaf = logits.requires_grad_()
    loss = evidential_loss(leaf, torch.full_like(target, 255), 0.3)
    loss.backward()
    assert loss.item() == 0
    assert (leaf.grad == 0).all()


@pytest.mark.parametrize("number", [3, 254, -1, 2**32 + 1])
def test_invalid_class_index_makes_only_its_sample_nan(device, number):
    logits, target = drawn((2, 50), 3, device)
    target = target.long()
    target[0, 20] = number
    leaf = logits.requires_grad_()
    sums = columns(evidential_sums(leaf, target))
    assert sums[0].isnan().all()
    assert sums[1].isfinite().all()
    sums.sum().backward()
    assert leaf.grad[0, :, 20].isnan().all()
    assert leaf.grad.isnan().sum() == 3
    assert evidential_loss(logits, target, 0.3).isnan()


@pytest.mark.parametrize("kind", ["softplus", "exp", "relu", "given"])
def test_nan_logits_give_nan_losses(device, kind):
    logits, target = drawn((1, 20), 2, device)
    logits, target[:] = logits.abs(), 1
    logits[0, 0, 3] = torch.nan
    loss = evidential_loss(logits, target, 0.3, kind=kind, reduction="none")
    assert loss.isnan().nonzero().tolist() == [[0, 3]]


@pytest.mark.parametrize("logit", [-1e4, -100.0, 100.0, 1e6, 1e12, torch.inf])
@pytest.mark.parametrize("classes", [2, 3, 8])
def test_extreme_logits_stay_finite(device, logit, classes):
    leaf = torch.full((classes, classes), logit, device=device, requires_grad=True)
    loss = evidential_loss(leaf, torch.arange(classes, device=device), 1.0)
    loss.backward()
    assert loss.isfinite()
    assert leaf.grad.isfinite().all()


def test_two_runs_are_bitwise_equal(device):
    logits, target = drawn((2, 50, 60), 3, device)
    first, second = (columns(evidential_sums(logits, target)) for _ in range(2))
    assert torch.equal(first, second)


def test_autocast_does_not_change_results(device):
    logits, target = drawn((2, 100), 3, device, dtype=torch.bfloat16)
    expected = columns(evidential_sums(logits, target))
    with torch.autocast(device.type, torch.bfloat16):
        assert torch.equal(columns(evidential_sums(logits, target)), expected)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dice", ["softmax", "expected"])
@pytest.mark.parametrize("soft", [False, True])
def test_gradients_match_finite_differences(doubles, classes, dice, soft):
    logits, target = drawn((2, 4), classes, "cpu", dtype=torch.float64)
    if soft:
        target = torch.rand(2, classes, 4, generator=generator(3), dtype=torch.float64)

    def checked(x):
        return columns(evidential_sums(x, target, dice=dice))[:, [1, 2, *range(4, 4 + 2 * classes)]]

    assert torch.autograd.gradcheck(checked, logits.requires_grad_())
    assert torch.autograd.gradcheck(lambda x: evidential_loss(x, target, 0.3, reduction="none"), logits)


@pytest.mark.parametrize(
    ("shape", "target", "options", "message"),
    [
        ((4, 3), torch.zeros(4, 1, dtype=torch.int64), {}, r"need \(4,\)"),
        ((4, 3), torch.zeros(4), {}, r"need \(4, 3\)"),
        ((4, 3), torch.zeros(4, dtype=torch.bool), {}, "must be integers"),
        ((4, 1), torch.zeros(4, dtype=torch.int64), {}, "1 classes along dimension 1; 2 to 16 are supported"),
        ((4, 17), torch.zeros(4, dtype=torch.int64), {}, "17 classes"),
        ((4, 3), torch.zeros(4, dtype=torch.int64), {"dim": 2}, "no dimension 2"),
        ((4, 3), torch.zeros(4, dtype=torch.int64), {"kind": "square"}, "choose softplus"),
        ((4, 3), torch.zeros(4, dtype=torch.int64), {"reduction": "max"}, "choose none, mean or sum"),
        ((4, 3), torch.zeros(4, dtype=torch.int64), {"weight": torch.ones(3)}, r"weight has shape \(3,\)"),
        ((4, 3), torch.zeros(4, dtype=torch.int64), {"class_weight": torch.ones(2)}, "class_weight has shape"),
        ((4, 3), torch.zeros(4, 3), {"class_weight": torch.ones(3)}, "needs a target of class indices"),
    ],
)
def test_invalid_arguments_raise_a_one_line_error(shape, target, options, message):
    with pytest.raises(ValueError, match=message) as error:
        evidential_loss(torch.rand(shape), target, 0.0, **options)
    assert "\n" not in str(error.value)


def test_integer_logits_are_rejected():
    with pytest.raises(ValueError, match="must be floating"):
        evidential_sums(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
