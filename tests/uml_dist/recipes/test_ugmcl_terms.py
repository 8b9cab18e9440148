"""The loss of UG-MCL: its formulas in both profiles, the gate, and what does not change it."""

import dataclasses

import pytest
import torch

from naive_ugmcl import LABELLED, SIZE, UNLABELLED, Given, batch_of, naive_terms, output_of
from ugmcl_recipes import recipe_of
from uml_dist.distributed.global_batch import GlobalBatch
from uml_dist.recipes import Progress
from uml_dist.recipes.ugmcl.network import VolumeOutput

PROGRESS = Progress(step=30, steps=100, phase="train", phase_step=30, phase_steps=100)
ROWS = LABELLED + UNLABELLED


def batches_of(unlabelled=UNLABELLED, classes=2):
    return {
        "labelled": batch_of(LABELLED, masked=True, classes=classes),
        "unlabelled": batch_of(unlabelled, masked=False, first_key=10),
    }


def step_of(recipe, batches, student, *teacher, progress=PROGRESS):
    """Return the result of a step, its targets, and its counts, with networks that return given outputs."""
    networks = {"student": Given(student), "teacher": Given(*teacher)}
    with torch.no_grad():
        targets = recipe.targets(batches, networks, progress)
    whole = GlobalBatch([recipe.counts(batches, targets)])
    return recipe.step(batches, targets, networks, progress, whole), targets, whole


def passes(rows=ROWS, classes=2):
    """Return outputs for the eight stochastic passes, two to a call, which agree on about half of the voxels."""
    common = output_of(rows, classes, None, seed=40, scale=3.0).logits.detach().repeat(2, 1, 1, 1, 1)
    return [
        VolumeOutput(common + output_of(2 * rows, classes, None, seed=50 + call).logits.detach(), None)
        for call in range(4)
    ]


def test_loss_of_the_paper_is_that_of_its_equations():
    recipe, batches = recipe_of(), batches_of()
    student, teacher = output_of(ROWS), output_of(ROWS, seed=1)
    result, targets, _ = step_of(recipe, batches, student, teacher, *passes())
    gate = targets["gate"]
    assert 0 < gate.sum() < gate.numel()
    naive = naive_terms(batches["labelled"], student, teacher, gate, targets["distance_map"][:, 0], 1500.0)
    ramp = 0.1 * torch.exp(torch.tensor(-5 * 0.7**2)).item()
    intra = 0.75 * naive["intra_segmentation"] + 0.25 * naive["intra_distance"]
    expected = naive["cross_entropy"] + naive["dice"] + naive["distance"] + ramp * (intra + naive["cross"])
    assert result.losses["student"].item() == pytest.approx(expected, rel=1e-5)
    for name in ("cross_entropy", "dice", "distance"):
        assert result.terms[f"supervised_{name}"].item() == pytest.approx(naive[name], rel=1e-5), name
    assert result.terms["cross"].item() == pytest.approx(naive["cross"], rel=1e-5)
    assert result.terms["gate_share"].item() == pytest.approx(gate.float().mean().item())


def test_loss_of_the_release_is_that_of_its_code():
    recipe, batches = recipe_of(model={"profile": "release", "norm": "group"}), batches_of()
    leaf, other = output_of(ROWS, scale=0.001), output_of(ROWS, seed=1, scale=0.001)
    # Heads are shared: distances are the tanh of the scores.
    student, teacher = (VolumeOutput(one.logits, torch.tanh(one.logits)) for one in (leaf, other))
    result, targets, _ = step_of(recipe, batches, student, teacher, *passes())
    assert "distance_map" not in targets
    p, taught = (one.logits.softmax(1).detach() for one in (student, teacher))
    gate = targets["gate"][:, None]
    masks = torch.sigmoid(-1500 * student.distance.detach())
    foreground = VolumeOutput(student.logits, student.distance[:, 1:])
    naive = naive_terms(
        batches["labelled"], foreground, VolumeOutput(teacher.logits, teacher.distance[:, 1:]), targets["gate"],
        torch.zeros(LABELLED, *SIZE), 1500.0,
    )  # fmt: skip
    supervised = 0.5 * (naive["cross_entropy"] + naive["dice"] + naive["distance_dice"])
    # At step 30 of 100, a staircase of 150 steps is still on its first step.
    ramp = 0.1 * torch.exp(torch.tensor(-5.0)).item()
    intra = 0.5 * (gate * (p - taught).square()).sum() / (2 * gate.sum())
    cross = (masks - p).square().mean()
    assert result.losses["student"].item() == pytest.approx(supervised + ramp * float(intra + cross), rel=1e-5)


@pytest.mark.parametrize(("weights", "value"), [({}, 1.0), ({"profile": "release"}, 0.5)])
def test_opposite_certain_student_and_teacher_disagree_by_one(weights, value):
    """The release halves the disagreement once more than its denominator explains."""
    recipe = recipe_of(
        model={**weights, "norm": "group"}, method="segmentation_consistency", ramp="constant", gate_intra=False
    )
    certain = torch.full((ROWS, 2, *SIZE), 50.0)
    certain[:, 1] = -50.0
    student, teacher = (VolumeOutput(logits.requires_grad_(), None) for logits in (certain, -certain.detach()))
    result, _, _ = step_of(recipe, batches_of(), student, teacher)
    assert float(result.terms["intra"]) * recipe.plan.weights.intra / 0.1 == pytest.approx(value)


def narrowed(targets, gate):
    return {**targets, "gate": targets["gate"] & gate}


@pytest.mark.parametrize("gated", [False, True])
def test_gate_reaches_the_agreement_of_segmentation_and_distance_only_by_its_switch(gated):
    recipe, batches = recipe_of(gate_cross=gated), batches_of()
    student, teacher = output_of(ROWS), output_of(ROWS, seed=1)
    networks = {"teacher": Given(teacher, *passes())}
    with torch.no_grad():
        targets = recipe.targets(batches, networks, PROGRESS)
    half = torch.rand(targets["gate"].shape, generator=torch.Generator().manual_seed(3)) < 0.5
    terms = []
    for one in (targets, narrowed(targets, half)):
        whole = GlobalBatch([recipe.counts(batches, one)])
        terms.append(recipe.step(batches, one, {"student": Given(student)}, PROGRESS, whole).terms)
    assert (float(terms[0]["cross"]) != float(terms[1]["cross"])) == gated
    assert float(terms[0]["intra"]) != float(terms[1]["intra"])


def test_closed_gate_gives_a_finite_loss_without_agreement():
    recipe, batches = recipe_of(threshold=(0.0, 0.0), gate_cross=True), batches_of()
    student = output_of(ROWS)
    result, targets, _ = step_of(recipe, batches, student, output_of(ROWS, seed=1), *passes())
    assert not targets["gate"].any()
    assert float(result.terms["intra"]) == float(result.terms["cross"]) == 0.0
    result.losses["student"].backward()
    assert torch.isfinite(student.logits.grad).all()


def test_gate_opens_for_every_voxel_that_is_not_ignorant():
    recipe, batches = recipe_of(threshold=(1.0, 1.0)), batches_of()
    _, targets, _ = step_of(recipe, batches, output_of(ROWS), output_of(ROWS, seed=1), *passes())
    assert targets["gate"].all()


@pytest.mark.parametrize("method", ["ugmcl", "dtc", "mean_teacher", "ua_mt", "copy_paste", "supervised_distance"])
def test_masks_of_unlabelled_samples_have_no_effect(method):
    unlabelled = LABELLED if method == "copy_paste" else UNLABELLED
    recipe, batches = recipe_of(method=method), batches_of(unlabelled)
    has_distance = 1 if recipe.plan.distance else None
    losses = []
    for mask in (batches["unlabelled"].mask, torch.randint_like(batches["unlabelled"].mask, 2)):
        garbage = {**batches, "unlabelled": dataclasses.replace(batches["unlabelled"], mask=mask)}
        rows = LABELLED + unlabelled
        taught = UNLABELLED if method == "ua_mt" else unlabelled if method == "copy_paste" else rows
        teacher = [output_of(taught, seed=1, distances=has_distance), *passes(taught)]
        rows = {"supervised_distance": LABELLED, "copy_paste": LABELLED * 3}.get(method, rows)
        result, _, _ = step_of(recipe, garbage, output_of(rows, distances=has_distance), *teacher)
        losses.append(result.losses["student"].item())
    assert losses[0] == losses[1]


def test_placeholders_count_nowhere():
    """A sample of weight 0 changes no term, whatever is predicted for it."""
    recipe, batches = recipe_of(), batches_of()
    for name, row in (("labelled", 1), ("unlabelled", 2)):
        weight = batches[name].weight.clone()
        weight[row] = 0.0
        batches[name] = dataclasses.replace(batches[name], weight=weight)
    losses = []
    for seed in (0, 5):
        student, teacher, others = output_of(ROWS), output_of(ROWS, seed=1), passes()
        different = output_of(ROWS, seed=7 + seed)
        for one, row in ((student, 1), (student, 4), (teacher, 1), (teacher, 4)):
            with torch.no_grad():
                one.logits[row], one.distance[row] = different.logits[row], different.distance[row]
        result, _, _ = step_of(recipe, batches, student, teacher, *others)
        losses.append(result.losses["student"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_several_foreground_classes_have_a_distance_each():
    recipe, batches = recipe_of(classes=3), batches_of(classes=3)
    result, targets, _ = step_of(
        recipe, batches, output_of(ROWS, 3, 2), output_of(ROWS, 3, 2, seed=1), *passes(classes=3)
    )
    assert targets["distance_map"].shape == (LABELLED, 2, *SIZE)
    assert torch.isfinite(result.losses["student"])


def test_evidential_gate_needs_one_pass_and_is_the_vacuity():
    recipe, batches = recipe_of(uncertainty="evidential"), batches_of()
    evidence = torch.rand(ROWS, 2, *SIZE, generator=torch.Generator().manual_seed(2)) * 3
    teacher = VolumeOutput(torch.log1p(evidence), output_of(ROWS).distance)
    student = VolumeOutput(torch.log1p(evidence).requires_grad_(), output_of(ROWS, seed=1).distance)
    result, targets, _ = step_of(recipe, batches, student, teacher)
    vacuity = 2 / (2 + evidence.sum(1))
    torch.testing.assert_close(targets["uncertainty"], vacuity)
    limit = 0.75 + 0.25 * torch.exp(torch.tensor(-5 * 0.7**2))
    assert torch.equal(targets["gate"], vacuity < limit)
    torch.testing.assert_close(targets["probability"], (evidence + 1) / (2 + evidence.sum(1, keepdim=True)))
    assert float(result.vacuity["pixel"]) == pytest.approx(float(vacuity[:LABELLED].mean()))


def test_pasted_patches_have_the_labels_of_their_parts():
    recipe, batches = recipe_of(method="copy_paste"), batches_of(LABELLED)
    taught = output_of(LABELLED, seed=1, distances=None)
    student = Given(output_of(3 * LABELLED, distances=None))
    networks = {"student": student, "teacher": Given(taught)}
    with torch.no_grad():
        targets = recipe.targets(batches, networks, PROGRESS)
    counts = recipe.counts(batches, targets)
    recipe.step(batches, targets, networks, PROGRESS, GlobalBatch([counts]))
    inside = targets["box"]
    assert [int(inside[0].any(2).any(1).sum()), int(inside[0].any(2).any(0).sum())] == [3, 3]  # 2/3 of 5 and 4
    labelled, unlabelled = batches["labelled"].image, batches["unlabelled"].image
    mixed = student.images[0][LABELLED:]
    outside = inside[:, None]
    torch.testing.assert_close(mixed[:LABELLED], torch.where(outside, unlabelled, labelled))
    torch.testing.assert_close(mixed[LABELLED:], torch.where(outside, labelled, unlabelled))
    assert int(counts["pasted_labels"]) == LABELLED * inside[0].numel()
    known = int((batches["labelled"].mask != 255).sum())
    assert int(counts["pasted_masks"]) == known
