"""Weights of image classes in the classification loss of UML: a ratio of sums over the global batch."""

import pytest
import torch

from manifests import manifest_of
from objective_batches import Half, batch_of, leaves_of, naive_dirichlet, output_of, part_of, random_batch
from runs import uml_tree
from uml_dist.config.loading import validate
from uml_dist.distributed.global_batch import GlobalBatch
from uml_dist.errors import UmlError
from uml_dist.recipes.uml.objective import UmlObjective, counts, uml_terms
from uml_dist.recipes.uml.recipe import UmlRecipe

WEIGHTS = (1.0, 3.0)


def recipe_of(weights, **manifest):
    config = validate(uml_tree("data", objective__class_weights=weights), "test")
    return UmlRecipe(config, {"train": manifest_of(**manifest)})


@pytest.mark.parametrize(
    ("weights", "expected"),
    [("none", None), ("balanced", (1.0, 3.0)), ([2.0, 1.0], (2.0, 1.0)), ([0.1, 0.4], (1.0, 4.0))],
)
def test_weights_are_those_of_the_configuration_or_of_the_data(weights, expected):
    found = recipe_of(weights, class_counts=(6, 2)).class_weights
    assert found == (expected if expected is None else pytest.approx(expected))


def test_class_without_a_training_sample_has_a_finite_weight():
    assert recipe_of("balanced", class_counts=(8, 0)).class_weights == pytest.approx((1.0, 8.0))


@pytest.mark.parametrize(
    ("weights", "manifest", "message"),
    [
        ([1.0, 2.0, 3.0], {}, "gives 3 weights, but the shards have 2 image classes \\(benign, malignant\\)"),
        ("balanced", {"classes": ()}, "gives 0 weights, but the shards have 0 image classes \\(none\\)"),
        ([1.0, 0.0], {}, "objective.class_weights"),
        ([1.0, -1.0], {}, "objective.class_weights"),
        ("heavy", {}, "objective.class_weights"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(weights, manifest, message):
    with pytest.raises(UmlError, match=message) as raised:
        recipe_of(weights, **manifest)
    assert "\n" not in str(raised.value)


def classification_of(batch, leaves, whole=None):
    whole = GlobalBatch([counts(batch, WEIGHTS)]) if whole is None else whole
    return uml_terms(output_of(leaves), batch, whole, UmlObjective(dice_scope="sample"), 0.5, WEIGHTS)


def test_loss_is_the_weighted_mean_over_labelled_images():
    batch, leaves = random_batch(), leaves_of(4)
    known = batch.label >= 0
    evidence = torch.nn.functional.softplus(leaves[0].double())[known]
    error, kl = naive_dirichlet(evidence, batch.label[known])
    weight = torch.tensor(WEIGHTS, dtype=torch.float64)[batch.label[known]]
    expected = (weight * (error + kl)).sum() / weight.sum()
    assert classification_of(batch, leaves)["classification"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_micro_batches_of_other_classes_add_up_to_the_global_mean():
    batch = batch_of(random_batch().mask, torch.tensor([0, 0, 1, -1]))
    leaves = leaves_of(4)
    whole = Half(batch)
    whole.counts = counts(batch, WEIGHTS)
    parts = [part_of(batch, leaves, chosen) for chosen in (slice(0, 2), slice(2, 4))]
    found = [classification_of(*part, whole=whole) for part in parts]
    expected = classification_of(batch, leaves)
    for name in ("loss", "classification"):
        assert sum(one[name].item() for one in found) == pytest.approx(expected[name].item(), rel=1e-5)


def test_equal_weights_change_nothing():
    batch, leaves = random_batch(), leaves_of(4)
    plain = uml_terms(output_of(leaves), batch, GlobalBatch([counts(batch)]), UmlObjective(), 0.5)
    equal = (1.0, 1.0)
    same = uml_terms(output_of(leaves), batch, GlobalBatch([counts(batch, equal)]), UmlObjective(), 0.5, equal)
    assert same["loss"].item() == plain["loss"].item()
