"""Disc and vertical cup-to-disc ratio, against the definitions of the REFUGE challenge."""

import numpy as np
import pytest

from case_rows import cases_of
from manifests import manifest_of
from masked_batches import batch_of, predicting
from uml_dist.metrics.columns import Columns
from uml_dist.metrics.families import OpticDisc, PixelClasses
from uml_dist.metrics.summary import definition_of, formable, summarise
from uml_shards.sample import IGNORE

FAMILIES = (PixelClasses(), OpticDisc())
MANIFEST = manifest_of(classes=(), labelled=0, mask_classes=("background", "rim", "cup"))
SIDE = 40


def eye(disc, cup, centre=(20, 20)):
    """Ellipses of disc and cup: half height and half width each."""
    y, x = np.mgrid[:SIDE, :SIDE]
    inside = [((y - centre[0]) / a) ** 2 + ((x - centre[1]) / b) ** 2 <= 1 for a, b in (disc, cup)]
    return np.where(inside[1] & inside[0], 2, np.where(inside[0], 1, 0)).astype(np.uint8)


TRUE = [eye((15, 12), (8, 6)), eye((12, 14), (3, 9)), eye((10, 10), (7, 5), (22, 18))]
SAID = [eye((14, 13), (9, 4)), eye((11, 14), (6, 6)), eye((12, 10), (5, 5), (20, 18))]


def official_ratio(classes):
    """Ratio of the largest column sums, as the challenge's evaluation forms it."""
    return (classes == 2).sum(axis=0).max() / ((classes > 0).sum(axis=0).max() + 1e-7)


def official_dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def columns_of(true, said, manifest=MANIFEST):
    batch, prediction, found = batch_of(true), predicting(said, 3), {}
    for family in FAMILIES:
        found |= {name: values.numpy() for name, values in family.columns(batch, prediction, manifest).items()}
    rows = [{"key": key, "label": -1, **{n: v[i] for n, v in found.items()}} for i, key in enumerate(batch.keys)]
    return Columns(cases_of(rows), manifest)


def figures_of(true, said, empty="one"):
    return summarise(columns_of(true, said).cases, MANIFEST, empty, FAMILIES)


def test_figures_are_those_of_the_challenge():
    found = figures_of(TRUE, SAID)
    pairs = list(zip(TRUE, SAID, strict=True))
    assert found["dice_disc"] == pytest.approx(np.mean([official_dice(t > 0, s > 0) for t, s in pairs]))
    assert found["dice_cup"] == pytest.approx(np.mean([official_dice(t == 2, s == 2) for t, s in pairs]))
    assert found["dice_rim"] == pytest.approx(np.mean([official_dice(t == 1, s == 1) for t, s in pairs]))
    errors = [abs(official_ratio(t) - official_ratio(s)) for t, s in pairs]
    assert found["cup_to_disc_error"] == pytest.approx(np.mean(errors), abs=1e-6)
    assert min(errors) > 0.05


def test_a_perfect_prediction_has_no_error():
    found = figures_of(TRUE, TRUE)
    assert (found["dice_disc"], found["iou_disc"], found["cup_to_disc_error"]) == (1, 1, 0)


def test_without_a_predicted_disc_the_ratio_is_0_and_without_a_true_one_there_is_no_error():
    nothing = np.zeros_like(TRUE[0])
    found = figures_of(TRUE[:1], [nothing])
    assert found["cup_to_disc_error"] == pytest.approx(official_ratio(TRUE[0]), abs=1e-6)
    assert found["dice_disc"] == 0
    some = figures_of([TRUE[0], nothing], [SAID[0], SAID[1]])
    assert some["cup_to_disc_error"] == figures_of(TRUE[:1], SAID[:1])["cup_to_disc_error"]
    none = figures_of([nothing], [nothing])
    assert "cup_to_disc_error" not in none
    assert none["dice_disc"] == 1
    assert "dice_disc" not in figures_of([nothing], [nothing], "leave-out")
    no_cup = figures_of([np.minimum(TRUE[0], 1)], [SAID[0]])
    assert no_cup["cup_to_disc_error"] == pytest.approx(official_ratio(SAID[0]), abs=1e-6)


def test_ignored_pixels_belong_to_neither_and_unmasked_cases_count_nowhere():
    cut = [np.where(np.arange(SIDE)[:, None] < 20, IGNORE, one).astype(np.uint8) for one in TRUE]
    halves = figures_of([one[20:] for one in TRUE], [one[20:] for one in SAID])
    names = ("dice_disc", "iou_disc", "cup_to_disc_error")
    found = figures_of(cut, SAID)
    assert [found[name] for name in names] == [halves[name] for name in names]
    unknown = np.full_like(TRUE[0], IGNORE)
    found, expected = figures_of([*TRUE, unknown], [*SAID, SAID[0]]), figures_of(TRUE, SAID)
    assert [found[name] for name in names] == [expected[name] for name in names]


def test_the_rows_have_both_ratios():
    table = OpticDisc().table(columns_of(TRUE, SAID))
    assert list(table) == ["dice_disc", "iou_disc", "cup_to_disc", "true_cup_to_disc"]
    assert list(table["true_cup_to_disc"]) == pytest.approx([official_ratio(one) for one in TRUE], abs=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"mask_classes": ("background", "lesion")},
        {"mask_classes": ("background", "rim", "cup", "disc")},
        {"mask_classes": (), "mask_names": ("rim", "cup")},
        {"mask_classes": ("background", "rim", "cup"), "components": ("npy", "mask.npy", "json"), "size": None},
    ],
)
def test_other_classes_and_volumes_have_no_such_metrics(changes):
    manifest = manifest_of(**changes)
    assert OpticDisc().requirements(manifest) == {}
    assert OpticDisc().columns(batch_of(TRUE), predicting(SAID, 3), manifest) == {}


def test_definitions_and_requirements():
    lacks = formable(manifest_of(mask_classes=MANIFEST.mask_classes, masked=0), FAMILIES)
    assert lacks["cup_to_disc_error"] == lacks["dice_disc"] == "an image with a mask"
    assert definition_of("cup_to_disc_error", FAMILIES).lower_is_better
    assert definition_of("dice_disc", FAMILIES).by_empty_masks
