"""The plain baseline: its loss against float64 and MONAI, missing labels, ranks, predictions, refusals."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

import plain_unet
from manifests import manifest_of
from plain import train_plainly
from plain_unet import PlainNetwork, PlainUnet, counts, plain_terms
from runs import Trace, train, uml_tree
from uml_dist.batch import Batch
from uml_dist.config.loading import validate
from uml_dist.distributed.global_batch import GlobalBatch
from uml_dist.errors import UmlError
from worldly import train_each
from worlds import run_world

IMAGE_CLASSES, PIXEL_CLASSES, SIZE = 3, 4, (5, 6)


def batch_of(mask, label, weight) -> Batch:
    samples = len(label)
    return Batch(
        image=torch.zeros(samples, 3, *SIZE),
        mask=mask.to(torch.uint8),
        label=torch.as_tensor(label),
        weight=torch.as_tensor(weight),
        rng_key=torch.arange(samples),
        position=torch.arange(samples),
        keys=tuple(str(index) for index in range(samples)),
    )


def random_batch(gaps: bool) -> tuple[Batch, list[torch.Tensor]]:
    """Return four samples and their logits; with gaps, pixels, a mask, a label and a sample are missing."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.randint(0, PIXEL_CLASSES, (4, *SIZE), generator=generator)
    label, weight = [1, 0, 2, 1], [1.0, 1.0, 1.0, 1.0]
    if gaps:
        mask[0, :2], mask[1] = 255, 255
        label[2], weight[3] = -1, 0.0
    logits = [torch.randn(4, PIXEL_CLASSES, *SIZE, generator=generator), torch.randn(4, IMAGE_CLASSES)]
    return batch_of(mask, label, weight), [2 * one for one in logits]


def naive_loss(pixels, images, batch: Batch, weight: float):
    """Compute the formula sample by sample and class by class, without ignored values."""
    dice, errors, labels = [], [], []
    for index in range(len(batch)):
        if batch.weight[index] == 0:
            continue
        if batch.label[index] >= 0:
            labels.append(-images[index].log_softmax(0)[batch.label[index]])
        known = batch.mask[index] != 255
        if not known.any():
            continue
        truth = batch.mask[index][known].long()
        rows = pixels[index][:, known]
        errors += [-rows[:, place].log_softmax(0)[truth[place]] for place in range(len(truth))]
        overlaps = []
        for number in range(rows.shape[0]):
            probability, hot = rows.softmax(0)[number], (truth == number).double()
            both = 2 * (probability * hot).sum() + 1e-5
            overlaps.append(1 - both / (probability.sum() + hot.sum() + 1e-5))
        dice.append(torch.stack(overlaps).mean())
    segmentation = torch.stack(dice).mean() + torch.stack(errors).mean()
    return segmentation + weight * torch.stack(labels).mean()


@pytest.mark.parametrize("gaps", [False, True])
def test_loss_and_gradients_equal_the_formula_in_float64(gaps):
    batch, logits = random_batch(gaps)
    singles = [one.clone().requires_grad_() for one in logits]
    doubles = [one.double().requires_grad_() for one in logits]
    found = plain_terms(*singles, batch, GlobalBatch([counts(batch)]), 0.7)["loss"]
    expected = naive_loss(*doubles, batch, 0.7)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    pairs = zip(torch.autograd.grad(found, singles), torch.autograd.grad(expected, doubles), strict=True)
    for gradient, reference in pairs:
        torch.testing.assert_close(gradient.double(), reference, rtol=1e-4, atol=1e-7)


def test_segmentation_loss_without_gaps_equals_monai_s_dice_and_cross_entropy():
    from monai.losses import DiceCELoss

    batch, logits = random_batch(gaps=False)
    terms = plain_terms(*logits, batch, GlobalBatch([counts(batch)]), 1.0)
    expected = DiceCELoss(softmax=True, to_onehot_y=True)(logits[0], batch.mask[:, None].long())
    assert terms["segmentation"].item() == pytest.approx(expected.item(), rel=1e-6)
    label_loss = functional.cross_entropy(logits[1], batch.label)
    assert terms["classification"].item() == pytest.approx(label_loss.item(), rel=1e-6)


def test_ignored_values_do_not_change_the_loss():
    batch, logits = random_batch(gaps=True)
    terms = plain_terms(*logits, batch, GlobalBatch([counts(batch)]), 1.0)
    pixels, images = (one.clone() for one in logits)
    pixels[0, :, :2], pixels[1], pixels[3] = 9.0, -9.0, 5.0
    images[2], images[3] = 7.0, -7.0
    again = plain_terms(pixels, images, batch, GlobalBatch([counts(batch)]), 1.0)
    assert all(torch.equal(terms[name], again[name]) for name in terms)


def test_unlabelled_batch_has_a_loss_of_0_with_gradients():
    batch, logits = random_batch(gaps=False)
    empty = batch_of(torch.full_like(batch.mask, 255), [-1] * 4, [1.0] * 4)
    leaves = [one.requires_grad_() for one in logits]
    loss = plain_terms(*leaves, empty, GlobalBatch([counts(empty)]), 1.0)["loss"]
    assert loss.item() == 0.0
    assert [gradient.abs().max().item() for gradient in torch.autograd.grad(loss, leaves)] == [0.0, 0.0]


def plain_tree(shards, **words):
    """Return a configuration with small steps, so that no activation crosses its kink because of rounding."""
    tree = uml_tree(shards, optimizer__name="sgd", optimizer__lr=1e-4, **words)
    return tree | {"recipe": "plain_unet:PlainUnet", "model": {"channels": 8}}


def assert_same_training(one: Trace, other: Trace) -> None:
    assert len(one.losses) == 5
    assert max(abs(a - b) for a, b in zip(one.losses, other.losses, strict=True)) <= 1e-6
    difference = np.linalg.norm(one.gradient["unet"] - other.gradient["unet"])
    assert difference <= 1e-5 * np.linalg.norm(other.gradient["unet"])


@pytest.mark.distributed
def test_training_is_equal_on_1_and_2_ranks_with_accumulation_and_in_plain_torch(partly_known):
    tree = plain_tree(partly_known)
    plain = run_world(1, train_plainly, tree)[0]
    trees = [tree, {**tree, "zero": {"stage": 3}}, plain_tree(partly_known, train__micro_batch=2)]
    for trace in [*run_world(2, train_each, trees)[0], run_world(1, train, tree)[0]]:
        assert_same_training(trace, plain)


def network_of(channels: int = 16) -> PlainNetwork:
    return PlainNetwork(channels, 3, PIXEL_CLASSES, IMAGE_CLASSES)


def test_default_has_half_a_million_parameters():
    parameters = sum(one.numel() for one in network_of().parameters())
    assert 0.4e6 < parameters < 0.6e6


@pytest.mark.parametrize("size", [(32, 32), (33, 50)])
def test_probabilities_are_predicted_for_any_image_size_without_vacuity(size):
    manifest = manifest_of(size=size)
    tree = {"recipe": "plain_unet:PlainUnet", "streams": {"train": {"shards": "x", "count": 2}}}
    recipe = PlainUnet(validate(tree, "tree"), {"train": manifest})
    torch.manual_seed(0)
    network = recipe.networks["unet"].build().eval()
    batch = SimpleNamespace(image=torch.randn(2, 3, *size))
    with torch.no_grad():
        found = recipe.predict(batch, {"unet": network})  # type: ignore[arg-type]
    assert found.image_probability is not None
    assert found.pixel_probability is not None
    assert (found.image_probability.shape, found.pixel_probability.shape) == ((2, 2), (2, 2, *size))
    for probability in (found.image_probability, found.pixel_probability):
        assert torch.allclose(probability.sum(1), torch.ones(()))
    assert (found.image_vacuity, found.pixel_vacuity) == (None, None)
    assert found.pixel_entropy is not None


def test_missing_monai_is_one_line_with_the_command_to_install_it(monkeypatch):
    monkeypatch.setattr(plain_unet, "find_spec", lambda name: None)
    with pytest.raises(UmlError, match=r"recipe plain_unet needs MONAI: pip install 'uml-dist\[bench\]'"):
        refused({}, {})


@pytest.mark.parametrize(
    ("model", "changes", "reason"),
    [
        ({"checkpointing": True}, {}, r"cannot recompute activations: set model\.checkpointing = false"),
        ({}, {"classes": ()}, "needs labels and masks: the shards of x have 0 image classes"),
        ({}, {"mask_classes": ()}, "needs labels and masks: the shards of x have 0 mask classes"),
        ({}, {"mask_names": ("a", "b")}, "needs one mask per image: those of x overlap"),
        ({}, {"size": (16, 48)}, r"needs images of 32 pixels or more: set data\.size"),
    ],
)
def test_unsupported_data_and_settings_are_one_line(model, changes, reason):
    with pytest.raises(UmlError, match=f"recipe plain_unet {reason}"):
        refused(model, changes)


def refused(model, changes) -> PlainUnet:
    tree = {"recipe": "plain_unet:PlainUnet", "streams": {"train": {"shards": "x", "count": 2}}, "model": model}
    return PlainUnet(validate(tree, "tree"), {"train": manifest_of(**{"size": (32, 32), **changes})})
