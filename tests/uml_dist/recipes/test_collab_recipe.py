"""The recipe of collaborative learning: its phases, where gradients go, and what it predicts and refuses."""

import pytest
import torch

from collab_recipes import SIDE, batch_of, batches_of, networks_of, progress_of, recipe_of
from manifests import manifest_of
from uml_dist.config.loading import validate
from uml_dist.distributed.global_batch import GlobalBatch
from uml_dist.errors import UmlError
from uml_dist.recipes.collab.phases import ADVERSARY, ATTENTION, GRADES, LESIONS, TOGETHER
from uml_dist.recipes.collab.recipe import CollabRecipe

SWITCHES = ({}, {"evidential": True, "evidence_weighting": True}, {"pseudo": "hard", "discriminator_real": "masks"})


def step_of(recipe, networks, phase, phase_step=50, batches=None):
    """Return the result of a step of a phase, its targets and its counts."""
    progress = progress_of(phase, phase_step)
    streams = next(one.streams for one in recipe.phases if one.name == phase)
    given = {name: batch for name, batch in (batches or batches_of()).items() if name in streams}
    with torch.no_grad():
        targets = recipe.targets(given, networks, progress)
    whole = GlobalBatch([recipe.counts(given, targets)])
    return recipe.step(given, targets, networks, progress, whole), targets, whole


def reached(networks):
    """Return the networks with a gradient, and forget it."""
    names = {
        name
        for name, network in networks.items()
        if any(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
    }
    for network in networks.values():
        network.zero_grad()
    return names


def test_phases_share_the_steps_and_name_who_learns():
    phases = {phase.name: phase for phase in recipe_of().phases}
    assert list(phases) == [LESIONS, GRADES, ADVERSARY, ATTENTION, TOGETHER]
    assert sum(phase.share for phase in phases.values()) == pytest.approx(1)
    assert phases[ADVERSARY].learns == ("generator", "discriminator")
    assert phases[ATTENTION].refreshes == ("features",)
    assert phases[TOGETHER].learns == ("generator", "grader", "discriminator")


@pytest.mark.parametrize(
    ("model", "weights"),
    [({}, {"adversarial": 0}), ({"attention": "none"}, {"semi_supervised": 0}), ({"frozen_features": False}, {})],
)
def test_networks_have_equal_numbers_of_steps_in_all_variants(model, weights):
    for network in ("generator", "grader"):
        full, other = (
            sum(phase.share for phase in recipe.phases if network in phase.learns)
            for recipe in (recipe_of(), recipe_of(model, weights=weights))
        )
        assert other == pytest.approx(full)


@pytest.mark.parametrize("objective", SWITCHES)
@pytest.mark.parametrize("phase", [LESIONS, GRADES, ADVERSARY, ATTENTION, TOGETHER])
def test_each_loss_reaches_its_own_network_only(phase, objective):
    recipe = recipe_of(**objective)
    networks = networks_of(recipe)
    result, _, _ = step_of(recipe, networks, phase)
    assert set(result.losses) == set(next(one.learns for one in recipe.phases if one.name == phase))
    for name, loss in result.losses.items():
        assert loss.isfinite()
        loss.backward(retain_graph=True)
        assert reached(networks) == {name}


def test_pseudo_masks_carry_no_gradient_and_those_of_healthy_images_are_empty():
    recipe = recipe_of()
    _, targets, _ = step_of(recipe, networks_of(recipe), TOGETHER)
    assert not targets["presence"].requires_grad
    assert not targets["presence"][0].any()
    assert targets["presence"][1].any()


def test_masks_of_graded_images_are_never_read():
    recipe = recipe_of()
    networks, batches = networks_of(recipe), batches_of()
    losses = []
    for _ in range(2):
        result, _, _ = step_of(recipe, networks, TOGETHER, batches=batches)
        losses.append({name: loss.item() for name, loss in result.losses.items()})
        batches["image"].mask.fill_(7)
    assert losses[0] == losses[1]


def test_without_the_two_terms_the_generator_sees_images_with_masks_only():
    recipe = recipe_of(weights={"semi_supervised": 0, "adversarial": 0})
    networks = networks_of(recipe)
    assert "discriminator" not in networks
    result, targets, _ = step_of(recipe, networks, TOGETHER)
    assert "presence" not in targets
    alone, _, _ = step_of(recipe, networks, LESIONS)
    assert result.losses["generator"].item() == alone.losses["generator"].item()


def test_attention_uses_features_of_the_frozen_copy():
    recipe = recipe_of()
    networks = networks_of(recipe)
    before, _, _ = step_of(recipe, networks, ATTENTION)
    with torch.no_grad():
        for parameter in networks["features"].parameters():
            parameter.mul_(1.5)
    after, _, _ = step_of(recipe, networks, ATTENTION)
    assert before.losses["grader"].item() != after.losses["grader"].item()
    before.losses["grader"].backward()
    assert all(parameter.grad is None for parameter in networks["grader"].trunk.low_part.parameters())


def test_turns_alternate_if_asked():
    recipe = recipe_of(alternate=True)
    networks = networks_of(recipe)
    assert set(step_of(recipe, networks, TOGETHER, 0)[0].losses) == {"grader"}
    assert set(step_of(recipe, networks, TOGETHER, 1)[0].losses) == {"generator", "discriminator"}


@pytest.mark.parametrize(("limit", "learns"), [(0.5, True), (0.3, False)])
def test_discriminator_does_not_learn_from_a_batch_that_it_judges_well(limit, learns):
    recipe = recipe_of(skip_discriminator_above=limit)
    networks = networks_of(recipe)
    head = networks["discriminator"].head
    with torch.no_grad():  # it takes all maps for real, so it is right for two images of five
        head.weight.zero_()
        head.bias.fill_(1.0)
    result, targets, _ = step_of(recipe, networks, ADVERSARY)
    assert int(targets["judged_right"]) == 2
    assert ("discriminator" in result.losses) == learns
    assert "generator" in result.losses


def test_prediction_has_lesions_grade_and_attention():
    recipe = recipe_of(evidential=True)
    networks = {name: network.eval() for name, network in networks_of(recipe).items()}
    batch = batch_of([0, 1])
    untrained = recipe.predict(batch, networks)
    assert untrained.lesion_probability.shape == (2, 3, SIDE, SIDE)
    torch.testing.assert_close(untrained.image_probability.sum(1), torch.ones(2))
    assert ((untrained.image_vacuity > 0) & (untrained.image_vacuity <= 1)).all()
    assert set(untrained.maps) == {"lesion vacuity"}
    networks["grader"].train()
    step_of(recipe, networks, ATTENTION)
    networks["grader"].eval()
    trained = recipe.predict(batch, networks)
    assert trained.maps["attention"].shape == (2, SIDE, SIDE)
    assert not torch.equal(trained.image_probability, untrained.image_probability)


def test_notes_name_grades_that_no_image_has():
    assert recipe_of(counts=(4, 0, 4)).notes[-1] == "no training image has the grade mild, so it is never learnt"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"size": 40}, "data.size = 40: sides must be multiples of 16, at least 32"),
        ({"size": 16}, "data.size = 16: sides must be multiples of 16, at least 32"),
        ({"model": {"attention": "none"}}, 'model.attention = "none" gives no pseudo masks'),
        ({"model": {"norm": "batch"}}, "recomputed activations would count in batch norm twice"),
        ({"model": {"weights": "w.pth"}}, "there are no published weights of small_cnn"),
    ],
)
def test_settings_that_do_not_fit_are_refused(words, message):
    with pytest.raises(UmlError, match=message):
        recipe_of(**words)


def test_classes_of_images_with_masks_are_the_grades_or_unknown():
    recipe = recipe_of()
    manifest, others = recipe.manifests["image"], manifest_of(mask_classes=(), mask_names=recipe.lesions)
    with pytest.raises(UmlError, match="the classes of stream pixel are benign, malignant, but the grades of stream"):
        CollabRecipe(recipe.config, {"pixel": others, "image": manifest})
    unknown = manifest_of(classes=(), labelled=0, mask_classes=(), mask_names=recipe.lesions)
    assert CollabRecipe(recipe.config, {"pixel": unknown, "image": manifest}).grades == recipe.grades


def test_weight_decay_of_adam_is_refused():
    config = recipe_of().config
    tree = {**config.model_dump(exclude_none=True), "networks": {"grader": {"optimizer": {"weight_decay": 1e-4}}}}
    with pytest.raises(UmlError, match=r"weight_decay = 0.0001 of grader with adam would shrink weights"):
        CollabRecipe(validate(tree, "test"), recipe_of().manifests)
