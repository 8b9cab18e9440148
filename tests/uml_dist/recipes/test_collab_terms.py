"""The terms of collaborative learning, against their formulas; pseudo masks, and what a grade allows."""

import math

import pytest
import torch

from collab_recipes import GRADES, LESIONS, batch_of, progress_of, recipe_of
from uml_dist.distributed.global_batch import GlobalBatch
from uml_dist.errors import UmlError
from uml_dist.recipes.collab.lesions import LesionMaps
from uml_dist.recipes.collab.terms import LesionLoss, PseudoMasks, counted_pixels, grade_loss
from uml_kernels import evidential_loss

ALL = ((True,) * 3,) * 3


def whole_of(**counts: float) -> GlobalBatch:
    return GlobalBatch([{name: torch.tensor(float(count)) for name, count in counts.items()}])


def scores_of(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_cross_entropy_weighs_each_lesion_and_leaves_out_what_is_not_known():
    batch, positive = batch_of([0, 1]), (1.0, 5.0, 0.5)
    scores = scores_of(*batch.mask.shape)
    counted = counted_pixels(batch)
    loss = LesionLoss(whole_of(lesion_pixels=counted.sum()), positive, kl=0.0)
    errors = []
    for place in counted.nonzero().tolist():
        z, y = scores[tuple(place)].item(), int(batch.mask[tuple(place)])
        p = 1 / (1 + math.exp(-z))
        errors.append(-positive[place[1]] * math.log(p) if y else -math.log(1 - p))
    assert len(errors) == batch.mask.numel() - 35
    assert loss.labelled(scores, batch).item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_dice_is_the_mean_over_the_maps_of_images_with_masks():
    batch = batch_of([0, 1])
    batch.mask[1] = 255  # an image without masks
    scores = scores_of(*batch.mask.shape)
    loss = LesionLoss(whole_of(lesion_pixels=1, masked=1), (1.0,) * 3, kl=0.0)
    probability, expected = torch.sigmoid(scores.detach().double()[0]), []
    for lesion in range(3):
        known = batch.mask[0, lesion] != 255
        p, y = probability[lesion][known], (batch.mask[0, lesion][known] == 1).double()
        expected.append(1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1))
    dice = loss.dice(LesionMaps.of(scores).probability, batch)
    assert dice.item() == pytest.approx(float(sum(expected)) / 3, rel=1e-5)


def test_evidence_of_a_lesion_is_learnt_by_the_evidential_loss_of_two_classes():
    batch, kl = batch_of([0, 1]), 0.3
    scores = scores_of(2, 3, 2, 32, 32)
    counted = counted_pixels(batch)
    loss = LesionLoss(whole_of(lesion_pixels=counted.sum()), (1.0,) * 3, kl=kl)
    each = evidential_loss(scores, batch.mask, kl, kind="exp", dim=2, reduction="none")
    expected = each[counted].mean().item()
    assert loss.labelled(scores, batch).item() == pytest.approx(expected, rel=1e-5)
    maps = LesionMaps.of(scores)
    evidence = scores.exp()
    strength = evidence.sum(2) + 2
    torch.testing.assert_close(maps.probability, (evidence[:, :, 1] + 1) / strength)
    torch.testing.assert_close(maps.vacuity, 2 / strength)


def test_pseudo_masks_are_the_attention_where_the_grade_allows_it():
    image = batch_of([0, 2, -1])
    attention = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    allowed = recipe_of(lesions_of_grade={"none": [], "severe": ["dots", "lines"]}).allowed
    assert allowed == ((False,) * 3, (True,) * 3, (True, False, True))
    masks = PseudoMasks.of(attention, image, allowed, hard=None)
    assert not masks.presence[0].any()
    assert torch.equal(masks.presence[1, [0, 2]], attention[1, [0, 2]])
    assert not masks.presence[1, 1].any()
    assert torch.equal(masks.presence[2], attention[2])  # of an image without a grade, nothing is known to be absent
    assert (masks.weight == 1).all()


def test_hard_pseudo_masks_leave_out_what_is_between_the_bounds():
    image = batch_of([0, 2])
    attention = torch.full((2, 3, 32, 32), 0.5)
    attention[:, 0], attention[:, 1] = 0.8, 0.2
    masks = PseudoMasks.of(attention, image, ((False,) * 3, *ALL[1:]), hard=(0.3, 0.7))
    assert (masks.presence[1, 0] == 1).all()
    assert (masks.presence[1, 1] == 0).all()
    assert masks.weight[1].amax((1, 2)).tolist() == [1, 1, 0]
    assert not masks.presence[0].any()
    assert (masks.weight[0] == 1).all()  # the grade excludes all lesions


def test_pseudo_masks_weigh_what_is_known_and_all_that_the_grade_excludes():
    image = batch_of([0, 2])
    certainty = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    masks = PseudoMasks.of(certainty, image, ((False,) * 3, *ALL[1:]), hard=None, certainty=certainty)
    assert torch.equal(masks.weight[1], certainty[1])
    assert (masks.weight[0] == 1).all()
    placeholder = PseudoMasks.of(certainty, image, ALL, None, certainty)
    assert placeholder.weight[0].any()
    image.weight[0] = 0
    assert not PseudoMasks.of(certainty, image, ALL, None, certainty).weight[0].any()


def test_pseudo_masks_are_learnt_by_their_weights():
    scores, generator = scores_of(2, 3, 32, 32), torch.Generator().manual_seed(4)
    presence, weight = (torch.rand(2, 3, 32, 32, generator=generator) for _ in range(2))
    loss = LesionLoss(whole_of(pseudo=weight.sum()), (9.0,) * 3, kl=0.0).pseudo(scores, presence, weight)
    p = torch.sigmoid(scores.detach().double())
    errors = -(presence * p.log() + (1 - presence) * (1 - p).log())
    assert loss.item() == pytest.approx(((errors * weight).sum() / weight.sum()).item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["cross_entropy", "ordinal", "evidential"])
def test_grade_is_learnt_from_images_that_have_one(kind):
    image = batch_of([0, 2, -1])
    logits = scores_of(3, 2 if kind == "ordinal" else 3)
    loss = grade_loss(logits, image, whole_of(graded=2), kind, kl=0.2)
    z = logits.detach().double()
    match kind:
        case "cross_entropy":
            expected = sum((torch.logsumexp(z[row], 0) - z[row, grade]).item() for row, grade in ((0, 0), (1, 2)))
        case "ordinal":
            # The first image is above neither of the lower grades, the second above both.
            expected = float(torch.nn.functional.softplus(torch.stack([z[0], -z[1]])).sum())
        case _:
            vacuity = 3 / (z.exp() + 1).sum(1)
            expected = evidential_loss(z, image.label, 0.2, kind="exp", ignore_index=-1, reduction="sum").item()
            expected -= (vacuity[0] * z[0, 0] + vacuity[1] * z[1, 2]).item()
    assert loss.item() == pytest.approx(expected / 2, rel=1e-5)
    loss.backward()
    assert not logits.grad[2].any()


def test_a_grader_without_any_evidence_learns_the_label():
    image = batch_of([0, 2, -1])
    logits = torch.full((3, 3), -30.0, requires_grad=True)
    grade_loss(logits, image, whole_of(graded=2), "evidential", kl=0.01).backward()
    expected = torch.zeros(3, 3)
    expected[0, 0] = expected[1, 2] = -0.5
    torch.testing.assert_close(logits.grad, expected)


def test_weight_of_pseudo_masks_rises_over_a_share_of_the_last_phase():
    objective = recipe_of(ramp=0.5, weights={"semi_supervised": 2.0}).objective
    weights = [objective.semi_supervised_weight(progress_of("together", step)) for step in (0, 25, 50, 99)]
    assert weights == pytest.approx([2 * math.exp(-5), 2 * math.exp(-5 / 4), 2.0, 2.0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"lesions_of_grade": {"awful": []}}, "objective.lesions_of_grade names 'awful': the grades of the shards"),
        ({"lesions_of_grade": {"mild": ["holes"]}}, "objective.lesions_of_grade.mild names 'holes': the lesions"),
        ({"positive_weight": {"holes": 2.0}}, "objective.positive_weight names 'holes': the lesions"),
        ({"evidence_weighting": True}, "evidence_weighting needs the evidence of evidential = true"),
        ({"evidential": True, "grade_loss": "ordinal"}, "evidential = true has a loss of its own for the grade"),
        ({"pseudo_range": [0.7, 0.3]}, "pseudo_range = .* falls"),
    ],
)
def test_settings_that_fit_neither_the_shards_nor_one_another_are_refused(words, message):
    with pytest.raises(UmlError, match=message):
        recipe_of(**words)


def test_names_of_lesions_and_grades_come_from_the_shards():
    recipe = recipe_of(positive_weight={"lines": 3.0})
    assert recipe.positive == (1.0, 1.0, 3.0)
    assert recipe_of(positive_weight=5).positive == (5.0, 5.0, 5.0)
    assert (recipe.lesions, recipe.grades) == (LESIONS, GRADES)
