"""Tests of the combined loss: formulas and gradients in float64, invalid arguments, and the number of launches."""

from functools import partial

import pytest
import torch

from uml_kernels import EvidentialSums, LevelSums, TermWeights, combined_loss, evidential_sums, level_sums
from uml_kernels.operation import INTERPRETED

CLASSES, SMOOTH = 3, 1e-5
WEIGHTS = [TermWeights(0.3, 0.2, 0.1), TermWeights(0.0, 0.4, 1.5), TermWeights(0.7, 0.0, 0.2), TermWeights(dice=0.5)]


def random_columns(maps, samples, first, seed, device):
    """Draw plausible sums (maps, samples, K), with intersections at most as large as both parts."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(maps, samples, first + 3 * CLASSES, generator=generator) * 100
    drawn[..., first : first + CLASSES] = torch.minimum(
        drawn[..., first + CLASSES : first + 2 * CLASSES], drawn[..., first + 2 * CLASSES :]
    )
    return drawn.to(device).requires_grad_()


def reference(evidential, levels, weight, divisor, dice_divisor, dice, per_sample, kl_weight):
    """Return the loss and the terms (maps, 4) in float64."""
    terms = []
    for sums, first in ((evidential, 4), (levels, 2)):
        for columns in () if sums is None else sums:
            counts = columns[:, 0].detach()  # counts and the target's sums have no gradient
            count = (weight * counts).sum()
            by = count.clamp(min=1e-300) if divisor is None else divisor
            errors, kl, vacuity = ((weight * columns[:, k]).sum() / by for k in (1, 2, 3))
            overlaps = columns[:, first:].unflatten(1, (3, -1))
            overlaps = torch.cat([overlaps[:, :2], overlaps[:, 2:].detach()], 1)
            if not per_sample:
                overlaps = (overlaps * weight[:, None, None]).sum(0, keepdim=True)
            overlap = (2 * overlaps[:, 0] + SMOOTH) / (overlaps[:, 1] + overlaps[:, 2] + SMOOTH)
            losses = (-overlap.log() if dice == "negative_log" else 1 - overlap).mean(1)
            if per_sample:
                shares = weight * (counts > 0)
                losses = losses * shares / (shares.sum() if dice_divisor is None else dice_divisor)
            zero = torch.zeros_like(count)
            terms.append(torch.stack([errors, *((kl, vacuity) if first == 4 else (zero, zero)), losses.sum()]))
    loss = sum(
        w.cross_entropy * t[0] + w.kl * kl_weight * t[1] + w.dice * t[3] for w, t in zip(WEIGHTS, terms, strict=False)
    )
    return loss, torch.stack(terms)


@pytest.mark.parametrize("dice", ["negative_log", "linear"])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(("maps", "levels"), [(1, 0), (0, 2), (2, 2)])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("samples", [1, 5, 130])
def test_losses_and_gradients_match_the_formulas(device, dice, per_sample, maps, levels, given, samples):
    if samples == 130 and (maps, levels) != (2, 2):
        pytest.skip("many samples are tested only with both kinds of sums")
    both = [random_columns(n, samples, first, first, device) if n else None for n, first in ((maps, 4), (levels, 2))]
    weight = torch.rand(samples, generator=torch.Generator().manual_seed(1)).to(device) + 0.1
    divisors = [torch.tensor(number, device=device) for number in (7.0, 3.0)] if given else [None, None]
    found = combined_loss(
        None if both[0] is None else EvidentialSums(both[0]), None if both[1] is None else LevelSums(both[1]),
        term_weights=WEIGHTS[: maps + levels], kl_weight=torch.tensor(0.6, device=device), weight=weight,
        divisor=divisors[0], dice_divisor=divisors[1], dice=dice, dice_per_sample=per_sample, smooth=SMOOTH,
    )  # fmt: skip
    doubles = [None if one is None else one.detach().double().requires_grad_() for one in both]
    loss, terms = reference(
        *doubles, weight.double(), *[None if one is None else one.double() for one in divisors], dice, per_sample, 0.6
    )
    got = torch.stack([found.cross_entropy, found.kl, found.vacuity, found.dice], 1)
    torch.testing.assert_close(found.loss.double(), loss, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(got.double(), terms, rtol=2e-6, atol=1e-6)
    # Gradients of the loss alone, of the terms alone, and of both
    upstream = torch.rand(got.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(device)
    upstream[:, 2] = 0  # the vacuity has no gradient
    for for_loss, for_terms in ((1.0, 0.0), (0.0, 1.0), (-2.5, 0.5)):
        scalar = for_loss * found.loss + for_terms * (got * upstream.float()).sum()
        exact = for_loss * loss + for_terms * (terms * upstream).sum()
        leaves, exact_leaves = ([one for one in each if one is not None] for each in (both, doubles))
        gradients = torch.autograd.grad(scalar, leaves, retain_graph=True)
        for gradient, wanted in zip(
            gradients, torch.autograd.grad(exact, exact_leaves, retain_graph=True), strict=True
        ):
            torch.testing.assert_close(gradient.double(), wanted, rtol=1e-5, atol=1e-6 * wanted.abs().max().item())


@pytest.mark.parametrize("per_sample", [False, True])
def test_zero_pixels_give_zero_loss_and_a_finite_gradient(device, per_sample):
    columns = torch.zeros(1, 4, 13, device=device, requires_grad=True)
    found = combined_loss(
        EvidentialSums(columns), term_weights=[TermWeights(1.0, 1.0, 1.0)], dice_per_sample=per_sample
    )
    found.loss.backward()
    assert found.loss.item() == 0
    assert columns.grad.isfinite().all()


def test_sums_without_overlaps_have_no_dice_loss(device):
    columns = torch.rand(2, 4, device=device, requires_grad=True)
    found = combined_loss(EvidentialSums(columns), term_weights=[TermWeights(1.0, 2.0, 5.0)], kl_weight=0.5)
    count = columns[:, 0].sum()
    expected = (columns[:, 1] + columns[:, 2]).sum() / count
    torch.testing.assert_close(found.loss, expected.detach())
    assert found.dice.tolist() == [0]


def test_several_maps_in_one_call_have_the_sums_of_separate_calls(device):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 3, 9, 11, generator=generator).to(device) for _ in range(4)]
    maps[2] = maps[2].contiguous(memory_format=torch.channels_last)
    leaves = [one.detach().requires_grad_() for one in maps]
    target = torch.randint(0, 3, (2, 9, 11), generator=generator, dtype=torch.uint8).to(device)
    together = evidential_sums(leaves, target)
    assert together.columns.shape == (4, 2, 13)
    upstream = torch.randn(together.columns.shape, generator=generator).to(device)
    gradients = torch.autograd.grad(together.columns, leaves, upstream)
    for number, each in enumerate(maps):
        alone_leaf = each.detach().requires_grad_()
        alone = evidential_sums(alone_leaf, target)
        torch.testing.assert_close(together.columns[number], alone.columns, rtol=1e-6, atol=1e-5)
        (gradient,) = torch.autograd.grad(alone.columns, alone_leaf, upstream[number])
        torch.testing.assert_close(gradients[number], gradient, rtol=1e-6, atol=1e-7)


def test_two_runs_are_bitwise_equal(device):
    columns = random_columns(2, 70, 4, 0, device)
    run = partial(combined_loss, EvidentialSums(columns), term_weights=WEIGHTS[:2])
    assert torch.equal(run().loss, run().loss)


def test_operators_pass_opcheck(device):
    evidential, levels = random_columns(1, 2, 4, 0, device), random_columns(2, 2, 2, 1, device)
    scalar = torch.tensor(0.5, device=device)
    flat = [0.5, 0.2, 0.1] * 3
    for arguments in (
        (scalar, evidential, levels, None, None, None, flat, True, False, 1e-5),
        (scalar, evidential, None, torch.rand(2, device=device), scalar, scalar, flat[:3], False, True, 1e-5),
    ):
        torch.library.opcheck(torch.ops.uml_kernels.combined_loss, arguments, atol=1e-4, rtol=1e-4)


def test_an_objective_compiles_without_graph_breaks(device):
    def loss_of(logits, level, target, kl_weight):
        sums, levels = evidential_sums([logits, 2 * logits], target), level_sums([logits, level], target)
        return combined_loss(sums, levels, term_weights=WEIGHTS, kl_weight=kl_weight).loss

    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(2, 3, side, side, generator=generator).to(device).requires_grad_() for side in (8, 4)]
    target = torch.randint(0, 3, (2, 8, 8), generator=generator, dtype=torch.uint8).to(device)
    kl_weight = torch.tensor(0.3, device=device)
    expected = torch.autograd.grad(loss_of(*leaves, target, kl_weight), leaves)
    traced = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(traced(*leaves, target, kl_weight), leaves)
    torch.testing.assert_close(found, expected)


INVALID = {
    "no sums": ((None, None), {}, "there are no sums"),
    "too few weights": ((2, 2), {"term_weights": WEIGHTS[:1]}, "1 entries for 4 maps"),
    "an unknown Dice": ((1, 0), {"dice": "squared"}, "choose negative_log or linear"),
    "a KL weight per sample": ((1, 0), {"kl_weight": torch.ones(2)}, r"kl_weight has shape \(2,\)"),
    "a KL weight of one element": ((1, 0), {"kl_weight": torch.ones(1)}, r"kl_weight has shape \(1,\)"),
    "a divisor per sample": ((1, 0), {"divisor": torch.ones(2)}, r"divisor has shape \(2,\)"),
    "weights of other samples": ((1, 0), {"weight": torch.ones(3)}, r"weight has shape \(3,\)"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_arguments_raise_a_one_line_error(case):
    (maps, levels), options, message = INVALID[case]
    evidential = EvidentialSums(torch.rand(maps, 2, 13)) if maps else None
    options = {"term_weights": WEIGHTS[: (maps or 0) + (levels or 0)], **options}
    with pytest.raises(ValueError, match=message) as error:
        combined_loss(evidential, LevelSums(torch.rand(levels, 2, 11)) if levels else None, **options)
    assert "\n" not in str(error.value)


def test_sums_of_different_samples_or_classes_are_rejected():
    with pytest.raises(ValueError, match="the levels have 3 samples and the evidential sums 2"):
        combined_loss(EvidentialSums(torch.rand(2, 13)), LevelSums(torch.rand(1, 3, 11)), term_weights=WEIGHTS[:2])
    with pytest.raises(ValueError, match="different numbers of classes"):
        combined_loss(EvidentialSums(torch.rand(2, 13)), LevelSums(torch.rand(1, 2, 8)), term_weights=WEIGHTS[:2])


@pytest.mark.skipif(INTERPRETED, reason="counted on tensors without data")
@pytest.mark.parametrize(("workload", "triton_kernels"), [("uml-paper", 6), ("uml-v2", 4), ("mutual", 4), ("loss", 4)])
def test_an_objective_and_its_gradient_launch_at_most_ten_kernels(workload, triton_kernels):
    """Before one kernel combined the sums: 60, 134, 33 and 18 torch operators and 4, 8, 2 and 2 Triton kernels."""
    pytest.importorskip("triton")
    from counted_launches import launched
    from workloads import WORKLOADS, Setting, make_inputs

    kernels, others = launched(partial(WORKLOADS[workload].ours, make_inputs(Setting(workload), torch.device("meta"))))
    assert len(kernels) == triton_kernels, kernels
    ones = 1  # `backward()` fills the upstream gradient
    assert len(kernels) + len(others) + ones <= 10, (kernels, others)
