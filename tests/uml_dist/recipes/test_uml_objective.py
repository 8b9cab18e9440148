"""The UML objective: its formulas in float64 under each switch, missing labels or masks, sums over parts of a batch."""

from math import log, log1p

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from eager_losses import logits_of
from evidential_reference import kl_to_uniform as exact_kl
from objective_batches import (
    PIXEL_CLASSES,
    SIZE,
    Half,
    batch_of,
    leaves_of,
    naive_dirichlet,
    output_of,
    part_of,
    random_batch,
)
from uml_dist.distributed.global_batch import GlobalBatch
from uml_dist.recipes.uml.objective import UmlObjective, UmlWeights, counts, uml_terms

TERMS = ("classification", "segmentation", "mutual")
SWITCHES = (
    {},
    {"dice": "linear"},
    {"dice_probability": "expected"},
    {"segmentation_loss": "cross_entropy_dice"},
    {"level_reduction": "sum"},
    {"level_reduction": "first"},
    {"dice_probability": "expected", "segmentation_loss": "cross_entropy_dice", "level_reduction": "first"},
)


def terms_of(batch, leaves, objective=UmlObjective(), fraction=0.2, whole=None):  # noqa: B008 - it is immutable
    whole = GlobalBatch([counts(batch)]) if whole is None else whole
    return uml_terms(output_of(leaves), batch, whole, objective, fraction)


def naive_dice(probability, target, kind):
    """Over rows of pixels: probability (P, C), target (P,)."""
    hot = functional.one_hot(target, probability.shape[1]).double()
    overlap = (2 * (probability * hot).sum(0) + 1e-5) / (probability.sum(0) + hot.sum(0) + 1e-5)
    return (-overlap.log() if kind == "negative_log" else 1 - overlap).mean()


def naive_terms(batch, leaves, kl_weight, objective):
    """The formulas of the specification on what is counted, of float64 leaves."""
    known = (batch.label >= 0) & (batch.weight > 0)
    error, kl = naive_dirichlet(functional.softplus(leaves[0])[known], batch.label[known])
    classification = (error + kl_weight * kl).mean()

    counted = (batch.mask != 255) & (batch.weight > 0)[:, None, None]
    levels = [leaves[2]]
    for level, leaf in enumerate(leaves[3:], 1):
        size = (leaf.shape[2] << level, leaf.shape[3] << level)
        full = functional.interpolate(leaf, size, mode="bilinear", align_corners=True)
        levels.append(full[..., : SIZE[0], : SIZE[1]])

    def pixels(x, chosen):
        return x.movedim(1, -1)[chosen]

    target = batch.mask[counted].long()
    evidence = functional.softplus(leaves[1])
    error, kl = naive_dirichlet(pixels(evidence, counted), target)
    groups = [counted]
    if objective.dice_scope == "sample":
        groups = [counted & (torch.arange(len(counted)) == i)[:, None, None] for i in range(len(counted))]
        groups = [group for group in groups if group.any()]

    def dice(probability):
        each = [naive_dice(pixels(probability, g), batch.mask[g].long(), objective.dice) for g in groups]
        return torch.stack(each).mean()

    if objective.dice_probability == "expected":
        mutual = (evidence + 1) / (evidence + 1).sum(1, keepdim=True)
    else:
        mutual = evidence.softmax(1)
    losses = [dice(x.softmax(1)) for x in levels]
    if objective.segmentation_loss == "cross_entropy_dice":
        rows = [pixels(x, counted) for x in levels]
        errors = [(row.logsumexp(1) - row[torch.arange(len(target)), target]).mean() for row in rows]
        losses = [loss + error for loss, error in zip(losses, errors, strict=True)]
    segmentation = {"mean": sum(losses) / 4, "sum": sum(losses), "first": losses[0]}[objective.level_reduction]
    return {
        "classification": classification,
        "mutual": dice(mutual) + (error + kl_weight * kl).mean(),
        "segmentation": segmentation,
    }


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("scope", ["global", "sample"])
@pytest.mark.parametrize("weight", [[1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0]])
def test_terms_and_gradients_are_those_of_the_specification(switches, scope, weight):
    batch, leaves = random_batch(), leaves_of(4)
    batch = batch_of(batch.mask, batch.label, weight)
    weights = UmlWeights(classification=0.3, segmentation=1.5, mutual=0.7)
    objective = UmlObjective(weights=weights, dice_scope=scope, **switches)
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    terms, expected = terms_of(batch, leaves, objective), naive_terms(batch, doubles, 0.4, objective)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=2e-6)
    whole = 0.3 * expected["classification"] + 1.5 * expected["segmentation"] + 0.7 * expected["mutual"]
    found = terms["loss"]
    assert found.item() == pytest.approx(whole.item(), rel=2e-6)
    gradients = zip(
        torch.autograd.grad(found, leaves),
        torch.autograd.grad(whole, doubles, allow_unused=True, materialize_grads=True),
        strict=True,
    )
    for gradient, reference in gradients:
        torch.testing.assert_close(gradient.double(), reference, rtol=1e-4, atol=1e-6 * reference.abs().max().item())


def test_the_default_is_the_paper():
    weights = UmlObjective().weights
    assert (weights.classification, weights.segmentation, weights.mutual) == (0.5, 0.4, 0.1)
    batch, leaves = random_batch(), leaves_of(4)
    explicit = UmlObjective(
        anneal=0.5, dice="negative_log", dice_probability="softmax", segmentation_loss="dice", level_reduction="mean"
    )
    terms, expected = terms_of(batch, leaves), terms_of(batch, leaves, explicit)
    assert all(torch.equal(terms[name], expected[name]) for name in TERMS)


GOLDEN = [
    ((3, 1), 0, 1 / 3, 0.0),
    ((3, 1), 1, 11 / 6, log(3) - 2 / 3),
    ((2, 1, 4), 0, 1.45, log(10) - 1.35),
    ((1, 1), 0, 1.0, 0.0),
    ((1, 1, 1), 2, 1.5, 0.0),
]
"""alpha, target, expected cross-entropy and KL of the specification's section 7.3."""


def uniform_case(evidence, target):
    """An image, and a map, whose every opinion has this evidence and this target."""
    row = logits_of(torch.tensor([evidence], dtype=torch.float32))
    batch = batch_of(torch.full((1, *SIZE), target), [target])
    scores = [torch.zeros(1, row.shape[1], 16 >> level, 24 >> level) for level in range(4)]
    scores[0] = scores[0][..., : SIZE[0], : SIZE[1]]
    return batch, [leaf.requires_grad_() for leaf in (row, row[:, :, None, None].repeat(1, 1, *SIZE), *scores)]


@pytest.mark.parametrize(("alpha", "target", "cross_entropy", "kl"), GOLDEN)
def test_values_of_the_specification_at_both_levels(alpha, target, cross_entropy, kl):
    batch, leaves = uniform_case([one - 1 for one in alpha], target)
    for fraction, kl_weight in ((0, 0), (0.1, 0.2), (0.5, 1), (0.9, 1)):
        terms = terms_of(batch, leaves, fraction=fraction)
        whole = cross_entropy + kl_weight * kl
        assert terms["classification"].item() == pytest.approx(whole, rel=2e-6)
        assert terms["classification_kl"].item() == pytest.approx(kl, rel=2e-6, abs=1e-12)
        assert terms["mutual_cross_entropy"].item() == pytest.approx(cross_entropy, rel=2e-6)
        assert terms["mutual_kl"].item() == pytest.approx(kl, rel=2e-6, abs=1e-12)
        assert (terms["mutual"] - terms["mutual_dice"]).item() == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("evidence", [1e-6, 1e-2, 1.0, 1e4, 1e6, 1e8])
def test_kl_terms_are_stable_to_evidence_of_1e8(evidence):
    evidence = float(np.float32(evidence))
    for row in ([0.0, evidence], [0.0, evidence, 0.0]):
        batch, leaves = uniform_case(row, 0)
        terms = terms_of(batch, leaves, fraction=1)
        exact = float(exact_kl(row, 0)[0])
        if len(row) == 2:
            assert exact == pytest.approx(log1p(evidence) - evidence / (1 + evidence), rel=1e-9)
        for name in ("classification_kl", "mutual_kl"):
            assert terms[name].item() == pytest.approx(exact, rel=1e-5, abs=2e-6)


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("level", [0.0, 1e-30, 1e8, 1e12])
def test_gradients_of_each_term_are_finite_for_extreme_outputs(level, switches):
    """Evidence of all, of the right and of wrong classes, and logits as far apart."""
    batch = random_batch()
    objective = UmlObjective(**switches)
    for present in ([1, 1, 1], [1, 0, 0], [0, 0, 1]):
        leaves = [
            torch.tensor(present[: leaf.shape[1]])
            .reshape(1, -1, *(1,) * (leaf.dim() - 2))
            .mul(level)
            .expand_as(leaf)
            .clone()
            .requires_grad_()
            for leaf in leaves_of(4)
        ]
        terms = terms_of(batch, leaves, objective, fraction=1)
        for name in TERMS:
            assert terms[name].isfinite()
            gradients = torch.autograd.grad(terms[name], leaves, retain_graph=True, allow_unused=True)
            reached = [gradient for gradient in gradients if gradient is not None]
            assert reached
            assert all(gradient.isfinite().all() for gradient in reached)


@pytest.mark.parametrize("switches", SWITCHES)
def test_the_scopes_agree_on_one_sample_and_on_copies_of_it(switches):
    batch, leaves = random_batch(), leaves_of(4)
    for chosen in (torch.tensor([0]), torch.tensor([0, 0, 0])):
        part, part_leaves = part_of(batch, leaves, chosen)
        one, other = (
            terms_of(part, part_leaves, UmlObjective(dice_scope=scope, **switches)) for scope in ("global", "sample")
        )
        for name in one:
            assert one[name].item() == pytest.approx(other[name].item(), rel=2e-6)


def test_the_scopes_differ_on_different_samples():
    batch, leaves = random_batch(), leaves_of(4)
    one, other = (terms_of(batch, leaves, UmlObjective(dice_scope=scope)) for scope in ("global", "sample"))
    assert abs(one["segmentation"].item() - other["segmentation"].item()) > 1e-3


def test_parts_sum_to_their_terms():
    terms = terms_of(random_batch(), leaves_of(4), fraction=0.25)
    mutual = terms["mutual_dice"] + terms["mutual_cross_entropy"] + 0.5 * terms["mutual_kl"]
    assert terms["mutual"].item() == pytest.approx(mutual.item(), rel=1e-6)
    assert not any(terms[name].requires_grad for name in terms if "_" in name)


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("scope", ["global", "sample"])
@pytest.mark.parametrize("lacking", ["labels", "masks", "both", "weight"])
def test_what_is_missing_gives_a_zero_that_still_reaches_every_output(scope, lacking, switches):
    batch = random_batch()
    if lacking in ("labels", "both"):
        batch = batch_of(batch.mask, [-1] * 4)
    if lacking in ("masks", "both"):
        batch = batch_of(torch.full_like(batch.mask, 255), batch.label)
    if lacking == "weight":
        batch = batch_of(batch.mask, batch.label, [0.0] * 4)
    leaves = leaves_of(4)
    objective = UmlObjective(dice_scope=scope, **switches)
    terms = terms_of(batch, leaves, objective)
    gradients = torch.autograd.grad(terms["loss"], leaves)  # raises for one that is not reached
    assert all(gradient.isfinite().all() for gradient in gradients)
    if lacking != "masks":
        assert terms["classification"].item() == 0
        assert not gradients[0].any()
    if lacking != "labels":
        assert terms["segmentation"].item() == terms["mutual"].item() == 0
        assert not any(gradient.any() for gradient in gradients[1:])


def test_placeholders_change_nothing():
    batch, leaves = random_batch(), leaves_of(4)
    short, short_leaves = part_of(batch, leaves, slice(0, 3))
    padded = batch_of(batch.mask, batch.label, [1.0, 1.0, 1.0, 0.0])
    for scope in ("global", "sample"):
        objective = UmlObjective(dice_scope=scope)
        with_them, without = terms_of(padded, leaves, objective), terms_of(short, short_leaves, objective)
        for name in without:
            assert with_them[name].item() == pytest.approx(without[name].item(), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("switches", SWITCHES)
def test_the_sample_scope_is_additive_over_micro_batches(switches):
    batch, leaves = random_batch(), leaves_of(4)
    objective = UmlObjective(dice_scope="sample", **switches)
    whole = terms_of(batch, leaves, objective)
    expected = torch.autograd.grad(whole["loss"], leaves)
    halves, gradients = [], []
    for chosen in (slice(0, 2), slice(2, 4)):
        part, part_leaves = part_of(batch, leaves, chosen)
        halves.append(terms_of(part, part_leaves, objective, whole=Half(batch)))
        gradients.append(torch.autograd.grad(halves[-1]["loss"], part_leaves))
    for name in whole:
        assert whole[name].item() == pytest.approx(sum(half[name].item() for half in halves), rel=1e-6)
    for full, first, second in zip(expected, *gradients, strict=True):
        torch.testing.assert_close(torch.cat((first, second)), full, rtol=1e-5, atol=1e-9)


def test_the_global_scope_forms_the_ratio_after_the_sums():
    """A stand-in for the other ranks adds their sums; the overlap is then that of all samples."""
    batch, leaves = random_batch(), leaves_of(4)
    seen = []

    class Recording(GlobalBatch):
        alone = False

        def total(self, local):
            seen.append(local.detach())
            return local

    whole = terms_of(batch, leaves, whole=Recording([counts(batch)]))
    for chosen in (slice(0, 2), slice(2, 4)):
        part, part_leaves = part_of(batch, leaves, chosen)
        terms_of(part, part_leaves, whole=Recording([counts(part)]))
    assert len(seen) == 3  # one collective each
    torch.testing.assert_close(seen[1] + seen[2], seen[0])

    class Joined(Half):
        alone = False

        def total(self, local):
            return local + seen[2]

    part, part_leaves = part_of(batch, leaves, slice(0, 2))
    joined = terms_of(part, part_leaves, whole=Joined(batch))
    assert joined["segmentation"].item() == pytest.approx(whole["segmentation"].item(), rel=1e-6)


def test_a_class_that_is_nowhere_has_full_overlap():
    batch = batch_of(torch.zeros(1, *SIZE), [0])
    leaves = leaves_of(1)
    sure = torch.zeros(1, PIXEL_CLASSES, *SIZE)
    sure[:, 0] = 200.0
    leaves[1] = leaves[2] = sure
    leaves[3:] = [torch.tensor([200.0, 0, 0])[None, :, None, None].expand_as(leaf) for leaf in leaves[3:]]
    assert terms_of(batch, leaves)["segmentation"].item() == pytest.approx(0, abs=1e-6)


def test_counts_respect_weights_labels_and_ignored_pixels():
    batch = random_batch()
    weighted = batch_of(batch.mask, batch.label, [0.0, 1.0, 1.0, 1.0])
    area = float(np.prod(SIZE))
    assert {name: value.item() for name, value in counts(batch).items()} == {
        "labelled": 3, "masked": 3, "pixels": 3 * area - 4 * SIZE[1],
    }  # fmt: skip
    assert {name: value.item() for name, value in counts(weighted).items()} == {
        "labelled": 2, "masked": 2, "pixels": 2 * area,
    }  # fmt: skip
    assert all(value.dtype == torch.float32 for value in counts(batch).values())


@pytest.mark.parametrize(
    ("anneal", "fraction", "weight"), [(0.5, 0, 0), (0.5, 0.25, 0.5), (0.5, 0.5, 1), (0.5, 1, 1), (0, 0, 1)]
)
def test_the_kl_weight_rises_over_a_share_of_the_run(anneal, fraction, weight):
    assert UmlObjective(anneal=anneal).kl_weight(fraction) == weight
    assert UmlObjective(anneal=anneal, kl=0.25).kl_weight(fraction) == 0.25 * weight


@pytest.mark.parametrize("switches", SWITCHES)
def test_terms_are_float32_of_bf16_logits(switches):
    batch, leaves = random_batch(), leaves_of(4)
    rounded = [leaf if index < 2 else leaf.bfloat16() for index, leaf in enumerate(leaves)]
    objective = UmlObjective(**switches)
    with torch.autocast("cpu", torch.bfloat16):
        terms = terms_of(batch, rounded, objective)
    expected = terms_of(batch, [leaf.float() for leaf in rounded], objective)
    assert all(term.dtype == torch.float32 for term in terms.values())
    for name in TERMS:
        assert terms[name].item() == pytest.approx(expected[name].item(), rel=2e-2)


def test_every_switch_is_described():
    for section in (UmlObjective, UmlWeights):
        assert all(field.description for name, field in section.model_fields.items() if name != "weights")


def test_an_unknown_key_is_an_error():
    with pytest.raises(ValidationError, match="extra"):
        UmlWeights(pixel=1.0)  # type: ignore[call-arg]
