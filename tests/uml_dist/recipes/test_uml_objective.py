"""The UML objective: the specification's formulas in float64, missing labels and masks, sums over parts of a batch."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.distributions import Dirichlet, kl_divergence
from torch.nn import functional

from uml_dist.batch import Batch
from uml_dist.recipes.uml.network import UmlOutput
from uml_dist.recipes.uml.objective import UmlObjective, UmlWeights, counts, total, uml_terms
from uml_dist.reduce import GlobalBatch

IMAGE_CLASSES, PIXEL_CLASSES, SIZE = 2, 3, (13, 18)


def batch_of(mask, label, weight=None) -> Batch:
    samples = len(label)
    return Batch(
        image=torch.zeros(samples, 3, *SIZE),
        mask=mask.to(torch.uint8),
        label=torch.as_tensor(label),
        weight=torch.ones(samples) if weight is None else torch.as_tensor(weight),
        address=torch.arange(samples),
        position=torch.arange(samples),
        keys=tuple(str(index) for index in range(samples)),
    )


def leaves_of(samples: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(IMAGE_CLASSES,), (PIXEL_CLASSES, *SIZE), (PIXEL_CLASSES, *SIZE)]
    shapes += [(PIXEL_CLASSES, 16 >> level, 24 >> level) for level in (1, 2, 3)]
    drawn = [torch.randn(samples, *shape, generator=generator) * 2 for shape in shapes]
    return [(leaf.exp() if index < 2 else leaf).requires_grad_() for index, leaf in enumerate(drawn)]


def output_of(leaves) -> UmlOutput:
    return UmlOutput(leaves[0], leaves[1], tuple(leaves[2:]), (), ())


def part_of(batch: Batch, leaves, chosen):
    part = batch_of(batch.mask[chosen], batch.label[chosen], batch.weight[chosen])
    return part, [leaf.detach()[chosen].requires_grad_() for leaf in leaves]


def random_batch(samples: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(5)
    mask = torch.randint(0, PIXEL_CLASSES, (samples, *SIZE), generator=generator)
    mask[0, :4] = 255
    mask[1] = 255
    return batch_of(mask, torch.tensor([1, 0, -1, 1])[:samples])


def terms_of(batch, leaves, objective=UmlObjective(), fraction=0.2, whole=None):  # noqa: B008 - it is immutable
    whole = GlobalBatch([counts(batch)]) if whole is None else whole
    return uml_terms(output_of(leaves), batch, whole, objective, fraction)


def naive_dirichlet(evidence, target):
    """Expected cross-entropy and KL of rows of evidence, by digamma and torch's distributions."""
    alpha = evidence + 1
    hot = functional.one_hot(target, evidence.shape[1]).double()
    error = (hot * (torch.digamma(alpha.sum(1, keepdim=True)) - torch.digamma(alpha))).sum(1)
    return error, kl_divergence(Dirichlet(hot + (1 - hot) * alpha), Dirichlet(torch.ones_like(alpha)))


def naive_dice(probability, target, kind):
    """Over rows of pixels: probability (P, C), target (P,)."""
    hot = functional.one_hot(target, probability.shape[1]).double()
    overlap = (2 * (probability * hot).sum(0) + 1e-5) / (probability.sum(0) + hot.sum(0) + 1e-5)
    return (-overlap.log() if kind == "negative_log" else 1 - overlap).mean()


def naive_terms(batch, leaves, kl_weight, kind, scope):
    """The formulas of the specification on what is counted, in float64."""
    leaves = [leaf.detach().double() for leaf in leaves]
    known = (batch.label >= 0) & (batch.weight > 0)
    error, kl = naive_dirichlet(leaves[0][known], batch.label[known])
    classification = (error + kl_weight * kl).mean()

    counted = (batch.mask != 255) & (batch.weight > 0)[:, None, None]
    maps = [leaves[1], leaves[2]]
    for level, leaf in enumerate(leaves[3:], 1):
        size = (leaf.shape[2] << level, leaf.shape[3] << level)
        full = functional.interpolate(leaf, size, mode="bilinear", align_corners=True)
        maps.append(full[..., : SIZE[0], : SIZE[1]])

    def pixels(x, chosen):
        return x.movedim(1, -1)[chosen]

    target = batch.mask[counted].long()
    error, kl = naive_dirichlet(pixels(maps[0], counted), target)
    groups = [counted]
    if scope == "sample":
        groups = [counted & (torch.arange(len(counted)) == i)[:, None, None] for i in range(len(counted))]
        groups = [group for group in groups if group.any()]
    dice = [
        torch.stack([naive_dice(pixels(x.softmax(1), g), batch.mask[g].long(), kind) for g in groups]).mean()
        for x in maps
    ]
    return {
        "classification": classification,
        "mutual": dice[0] + (error + kl_weight * kl).mean(),
        "segmentation": torch.stack(dice[1:]).mean(),
    }


@pytest.mark.parametrize("kind", ["negative_log", "linear"])
@pytest.mark.parametrize("scope", ["global", "sample"])
@pytest.mark.parametrize("weight", [[1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0]])
def test_terms_are_those_of_the_specification(kind, scope, weight):
    batch, leaves = random_batch(), leaves_of(4)
    batch = batch_of(batch.mask, batch.label, weight)
    objective = UmlObjective(dice=kind, dice_scope=scope)
    terms = terms_of(batch, leaves, objective)
    expected = naive_terms(batch, leaves, 0.4, kind, scope)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=2e-6)
    whole = 0.5 * expected["classification"] + 0.4 * expected["segmentation"] + 0.1 * expected["mutual"]
    assert total(terms, objective.weights).item() == pytest.approx(whole.item(), rel=2e-6)


def test_parts_sum_to_their_terms():
    terms = terms_of(random_batch(), leaves_of(4), fraction=0.25)
    mutual = terms["mutual_dice"] + terms["mutual_cross_entropy"] + 0.5 * terms["mutual_kl"]
    assert terms["mutual"].item() == pytest.approx(mutual.item(), rel=1e-6)
    assert not any(terms[name].requires_grad for name in terms if "_" in name)


@pytest.mark.parametrize("scope", ["global", "sample"])
@pytest.mark.parametrize("lacking", ["labels", "masks", "both", "weight"])
def test_what_is_missing_gives_a_zero_that_still_reaches_every_output(scope, lacking):
    batch = random_batch()
    if lacking in ("labels", "both"):
        batch = batch_of(batch.mask, [-1] * 4)
    if lacking in ("masks", "both"):
        batch = batch_of(torch.full_like(batch.mask, 255), batch.label)
    if lacking == "weight":
        batch = batch_of(batch.mask, batch.label, [0.0] * 4)
    leaves = leaves_of(4)
    objective = UmlObjective(dice_scope=scope)
    terms = terms_of(batch, leaves, objective)
    gradients = torch.autograd.grad(total(terms, objective.weights), leaves)  # raises for one that is not reached
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


class Half:
    """One micro batch of two on one process: counts of the whole, sums of a part."""

    def __init__(self, batch: Batch) -> None:
        self.counts = counts(batch)

    def mean(self, local_sum, name):
        return local_sum / self.counts[name].clamp(min=1)


def test_the_sample_scope_is_additive_over_micro_batches():
    batch, leaves = random_batch(), leaves_of(4)
    objective = UmlObjective(dice_scope="sample")
    whole = terms_of(batch, leaves, objective)
    expected = torch.autograd.grad(total(whole, objective.weights), leaves)
    halves, gradients = [], []
    for chosen in (slice(0, 2), slice(2, 4)):
        part, part_leaves = part_of(batch, leaves, chosen)
        halves.append(terms_of(part, part_leaves, objective, whole=Half(batch)))
        gradients.append(torch.autograd.grad(total(halves[-1], objective.weights), part_leaves))
    for name in whole:
        assert whole[name].item() == pytest.approx(sum(half[name].item() for half in halves), rel=1e-6)
    for full, first, second in zip(expected, *gradients, strict=True):
        torch.testing.assert_close(torch.cat((first, second)), full, rtol=1e-5, atol=1e-9)


def test_the_global_scope_forms_the_ratio_after_the_sums():
    """A stand-in for the other ranks adds their sums; the overlap is then that of all samples."""
    batch, leaves = random_batch(), leaves_of(4)
    seen = []

    class Recording(GlobalBatch):
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


def test_terms_are_float32_of_bf16_logits():
    batch, leaves = random_batch(), leaves_of(4)
    rounded = [leaf if index < 2 else leaf.bfloat16() for index, leaf in enumerate(leaves)]
    with torch.autocast("cpu", torch.bfloat16):
        terms = terms_of(batch, rounded)
    expected = terms_of(batch, [leaf.float() for leaf in rounded])
    assert all(term.dtype == torch.float32 for term in terms.values())
    for name in ("classification", "segmentation", "mutual"):
        assert terms[name].item() == pytest.approx(expected[name].item(), rel=2e-2)


def test_an_unknown_key_is_an_error():
    with pytest.raises(ValidationError, match="extra"):
        UmlWeights(pixel=1.0)  # type: ignore[call-arg]
