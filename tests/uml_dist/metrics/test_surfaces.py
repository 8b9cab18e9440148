"""Distances between surfaces, against all pairs of surface points and against MONAI."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_distance import compute_average_surface_distance
from monai.metrics.utils import get_mask_edges, get_surface_distance
from scipy.spatial import cKDTree

from case_rows import cases_of
from manifests import manifest_of
from masked_batches import batch_of, predicting
from uml_dist.batch import Prediction
from uml_dist.errors import UmlError
from uml_dist.metrics.columns import Columns
from uml_dist.metrics.families import STANDARD, PixelClasses, Surfaces
from uml_dist.metrics.families.surfaces import KINDS, surface_distances
from uml_dist.metrics.selection import check_selection, parse_selection
from uml_dist.metrics.summary import definition_of, formable, intervals, summarise
from uml_shards.sample import IGNORE

FAMILIES = (*STANDARD, Surfaces())


def blob(shape, seed, threshold=0.1):
    """A ragged mask: smooth noise in a ball."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=shape)
    for axis in range(len(shape)):
        noise = (noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)) / 3**0.5
    centre = np.linalg.norm([np.linspace(-1, 1, side).reshape(-1, *(1,) * (len(shape) - 1 - axis)) + 0 * noise
                             for axis, side in enumerate(shape)], axis=0)  # fmt: skip
    return noise - 3 * centre + 2 > threshold


def points_of(mask, spacing):
    """Surface points, found pixel by pixel: those with a neighbour along an axis that is outside."""
    padded, found = np.pad(mask, 1), []
    for place in np.argwhere(mask):
        steps = [sign * step for step in np.eye(mask.ndim, dtype=int) for sign in (1, -1)]
        if not all(padded[tuple(place + 1 + step)] for step in steps):
            found.append(place * np.asarray(spacing, dtype=np.float64))
    return np.asarray(found)


def by_hand(predicted, true, spacing):
    one, other = points_of(predicted, spacing), points_of(true, spacing)
    forth, back = cKDTree(other).query(one)[0], cKDTree(one).query(other)[0]
    return {
        "hd95": np.percentile([*forth, *back], 95),
        "asd": forth.mean(),
        "assd": (forth.mean() + back.mean()) / 2,
    }


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.625, 0.625, 0.625), (0.5, 3.0, 1.25)])
@pytest.mark.parametrize("seed", range(4))
def test_distances_of_volumes_are_those_of_all_pairs_of_points(seed, spacing):
    predicted, true = blob((19, 23, 14), seed), blob((19, 23, 14), seed + 100)
    found = surface_distances(predicted, true, spacing)
    assert found == pytest.approx(by_hand(predicted, true, spacing), rel=1e-9)
    assert found["hd95"] > found["asd"] > 0
    assert surface_distances(true, predicted, spacing)["asd"] != pytest.approx(found["asd"], rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_distances_of_images_are_those_of_all_pairs_of_points(seed):
    predicted, true = blob((31, 40), seed), blob((31, 40), seed + 100)
    assert surface_distances(predicted, true) == pytest.approx(by_hand(predicted, true, (1, 1)), rel=1e-9)


def test_directed_distances_are_those_of_monai():
    predicted, true = blob((19, 23, 14), 1), blob((19, 23, 14), 2)
    edges = get_mask_edges(torch.from_numpy(predicted), torch.from_numpy(true))
    spacing = (0.5, 3.0, 1.25)
    forth = np.asarray(get_surface_distance(*edges, spacing=spacing))
    back = np.asarray(get_surface_distance(*edges[::-1], spacing=spacing))
    found = surface_distances(predicted, true, spacing)
    assert found["asd"] == pytest.approx(forth.mean(), rel=1e-5)
    assert found["assd"] == pytest.approx((forth.mean() + back.mean()) / 2, rel=1e-5)
    assert found["hd95"] == pytest.approx(np.percentile([*forth, *back], 95), rel=1e-5)


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
@pytest.mark.parametrize("shape", [(31, 40), (19, 23, 14)])
@pytest.mark.parametrize("seed", range(2))
def test_the_larger_percentile_and_the_one_directed_mean_are_monai_s(shape, seed):
    predicted, true = blob(shape, seed), blob(shape, seed + 100)
    words = {"y_pred": torch.from_numpy(predicted)[None, None].float(), "y": torch.from_numpy(true)[None, None].float()}
    found = surface_distances(predicted, true, percentile="larger")
    hd95 = compute_hausdorff_distance(**words, percentile=95, include_background=True)
    assert found["hd95"] == pytest.approx(float(hd95), rel=1e-5)
    assert found["asd"] == pytest.approx(float(compute_average_surface_distance(**words, include_background=True)))
    together = surface_distances(predicted, true)
    assert found["hd95"] >= together["hd95"]
    assert (found["asd"], found["assd"]) == (together["asd"], together["assd"])


def test_cubes_have_the_distances_of_their_faces():
    true = np.zeros((20, 20, 20), dtype=bool)
    true[5:15, 5:15, 5:15] = True
    assert surface_distances(true, true) == dict.fromkeys(KINDS, 0.0)
    assert surface_distances(np.roll(true, 3, 0), true, (2.0, 1.0, 1.0))["hd95"] == 6.0
    pixel = np.zeros_like(true)
    pixel[10, 10, 0] = True
    assert surface_distances(pixel, true)["asd"] == 5.0
    full = np.ones_like(true)
    assert surface_distances(full, full)["hd95"] == 0.0
    assert surface_distances(pixel, full)["asd"] == 0.0, "the border of the volume is a surface"


def manifest_for(batch, names=("background", "atrium")):
    components = ("npy", "mask.npy", "json") if batch.image.dim() == 5 else ("png", "mask.png", "json")
    return manifest_of(size=None, classes=(), mask_classes=names, components=components, labelled=0)


def columns_of(batch, prediction, names=("background", "atrium"), unit="mm", draws=0, **rules):
    manifest, families = manifest_for(batch, names), (PixelClasses(), Surfaces(unit, **rules))
    found = {}
    for family in families:
        found |= {name: values.numpy() for name, values in family.columns(batch, prediction, manifest).items()}
    rows = [{"key": key, "label": -1, **{n: v[i] for n, v in found.items()}} for i, key in enumerate(batch.keys)]
    cases = cases_of(rows, draws)
    return Columns(cases, manifest), families


def figures_of(*arguments, **settings):
    columns, families = columns_of(*arguments, **settings)
    return summarise(columns.cases, columns.manifest, families=families)


VOLUME = (12, 13, 9)


def three_volumes(empty=False):
    true = [blob(VOLUME, seed).astype(np.uint8) for seed in range(3)]
    predicted = [blob(VOLUME, seed + 50).astype(np.uint8) for seed in range(3)]
    if empty:
        predicted[1][:] = 0
    return true, predicted


def test_metrics_are_means_over_cases_in_mm_of_each_case():
    true, predicted = three_volumes()
    spacings = [[1, 1, 1], [0.5, 0.5, 2.0], [2, 2, 2]]
    found = figures_of(batch_of(true, spacings), predicting(predicted))
    each = [by_hand(p == 1, t == 1, spacing) for p, t, spacing in zip(predicted, true, spacings, strict=True)]
    for kind in KINDS:
        assert found[kind] == found[f"{kind}_atrium"] == pytest.approx(np.mean([one[kind] for one in each]))
    assert found["surface_failures"] == 0


def test_voxels_can_be_asked_for_and_are_taken_where_no_case_states_its_voxel_size():
    true, predicted = three_volumes()
    each = [by_hand(p == 1, t == 1, (1, 1, 1)) for p, t in zip(predicted, true, strict=True)]
    mean = pytest.approx(np.mean([one["hd95"] for one in each]))
    for batch, unit in ((batch_of(true, [[2, 2, 2]] * 3), "voxel"), (batch_of(true), "mm")):
        assert figures_of(batch, predicting(predicted), unit=unit)["hd95"] == mean
        columns, (_, surfaces) = columns_of(batch, predicting(predicted), unit=unit)
        assert surfaces.notes(columns) == {"surface_distances": "in voxels"}
        assert surfaces.table(columns)["surface_unit"] == ["voxel"] * 3


def test_cases_without_a_voxel_size_are_left_out_and_counted_where_others_state_one():
    true, predicted = three_volumes()
    batch = batch_of(true, [[2, 2, 2], None, [1, 1, 3]])
    columns, families = columns_of(batch, predicting(predicted))
    pairs = [(0, (2, 2, 2)), (2, (1, 1, 3))]
    each = [by_hand(predicted[n] == 1, true[n] == 1, spacing)["asd"] for n, spacing in pairs]
    assert summarise(columns.cases, columns.manifest, families=families)["asd"] == pytest.approx(np.mean(each))
    note = families[1].notes(columns)["surface_distances"]
    assert note == "in mm; left out: 1 without a known voxel size"
    assert families[1].table(columns)["surface_unit"] == ["mm", "voxel", "mm"]


def test_a_class_on_one_side_only_has_no_distance_and_is_a_failure():
    true, predicted = three_volumes(empty=True)
    found = figures_of(batch_of(true), predicting(predicted))
    each = [by_hand(predicted[number] == 1, true[number] == 1, (1, 1, 1)) for number in (0, 2)]
    assert found["assd"] == pytest.approx(np.mean([one["assd"] for one in each]))
    assert found["surface_failures"] == 1
    swapped = figures_of(batch_of(predicted), predicting(true))
    assert swapped["surface_failures"] == 1
    columns, (_, surfaces) = columns_of(batch_of(true), predicting(predicted))
    assert columns.dice[1] == 0
    table = surfaces.table(columns)
    assert np.isnan(table["hd95_atrium"]).tolist() == [False, True, False]


def test_a_class_that_is_neither_there_nor_predicted_counts_nowhere():
    true, predicted = three_volumes(empty=True)
    true[1][:] = 0
    found = figures_of(batch_of(true), predicting(predicted))
    rest = figures_of(batch_of([true[0], true[2]]), predicting([predicted[0], predicted[2]]))
    assert found["surface_failures"] == 0
    assert [found[kind] for kind in KINDS] == [rest[kind] for kind in KINDS]


def test_without_any_pair_of_surfaces_there_are_failures_alone():
    true, predicted = three_volumes()
    found = figures_of(batch_of(true), predicting([0 * one for one in predicted]))
    assert found["surface_failures"] == 3
    assert not {"hd95", "asd", "assd", "hd95_atrium"} & found.keys()
    assert found["dice"] == 0


def test_a_class_without_a_surface_can_have_10_pixels():
    true, predicted = three_volumes(empty=True)
    true.append(np.zeros(VOLUME, dtype=np.uint8))
    predicted.append(np.zeros(VOLUME, dtype=np.uint8))
    unmasked = np.full(VOLUME, IGNORE)
    batch, prediction = batch_of([*true, unmasked], [[2, 2, 2]] * 5), predicting([*predicted, predicted[0]])
    rules = {"unit": "voxel", "missing": "10-pixels"}
    found = figures_of(batch, prediction, **rules)
    each = [by_hand(predicted[number] == 1, true[number] == 1, (1, 1, 1)) for number in (0, 2)]
    for kind in KINDS:
        # One class is missed, and one neither there nor predicted.
        assert found[kind] == pytest.approx(np.mean([one[kind] for one in each] + [10, 10]))
    assert found["surface_failures"] == 1
    columns, (_, surfaces) = columns_of(batch, prediction, percentile="larger", **rules)
    assert surfaces.notes(columns) == {
        "surface_distances": "in voxels; 10 where a class is empty in the mask or in the prediction; hd95 is the "
        "larger one of the 95th percentiles of either surface"
    }
    assert np.isnan(surfaces.table(columns)["hd95_atrium"]).tolist() == [False] * 4 + [True]


def test_unmasked_cases_count_nowhere():
    true, predicted = three_volumes()
    found = figures_of(batch_of([*true, np.full(VOLUME, IGNORE)]), predicting([*predicted, predicted[0]]))
    assert found == pytest.approx(figures_of(batch_of(true), predicting(predicted)))


def test_ignored_voxels_belong_to_neither_mask():
    true, predicted = three_volumes()
    cut = [np.where(np.arange(VOLUME[0])[:, None, None] < 5, IGNORE, one) for one in true]
    found = figures_of(batch_of(cut), predicting(predicted))
    each = [by_hand((p == 1)[5:], (t == 1)[5:], (1, 1, 1)) for p, t in zip(predicted, true, strict=True)]
    assert found["hd95"] == pytest.approx(np.mean([one["hd95"] for one in each]))
    ring = np.zeros((9, 9), dtype=np.uint8)
    ring[2:7, 2:7], predicted_ring = IGNORE, np.zeros((9, 9), dtype=np.uint8)
    ring[3:6, 3:6] = predicted_ring[2:7, 2:7] = 1
    assert figures_of(batch_of([ring] * 2), predicting([predicted_ring] * 2))["hd95"] == 0


def test_several_classes_have_a_mean_and_figures_of_their_own():
    true, predicted = three_volumes()
    first, second = (np.where(one, np.arange(VOLUME[2]) % 5 // 3 + 1, 0) for one in (true[0] == 1, predicted[0] == 1))
    names = ("background", "core", "rim")
    found = figures_of(batch_of([first]), predicting([second], 3), names)
    for number, name in ((1, "core"), (2, "rim")):
        assert found[f"asd_{name}"] == pytest.approx(by_hand(second == number, first == number, (1, 1, 1))["asd"])
    assert found["asd"] == pytest.approx((found["asd_core"] + found["asd_rim"]) / 2)


def test_overlapping_lesions_have_surfaces_too():
    true, predicted = three_volumes()
    first, second = np.stack([true[0], true[1]])[:, :, :, 0], np.stack([predicted[0], predicted[1]])[:, :, :, 0]
    batch = replace(batch_of([first[0]]), mask=torch.from_numpy(first)[None])
    manifest = manifest_of(classes=(), mask_classes=(), mask_names=("a", "b"), labelled=0)
    columns = Surfaces().columns(batch, Prediction(lesion_probability=torch.from_numpy(second)[None].float()), manifest)
    for number in range(2):
        expected = by_hand(second[number] == 1, first[number] == 1, (1, 1))["assd"]
        assert float(columns[f"assd_{number}"]) == pytest.approx(expected)


def test_the_cleaned_classes_of_a_prediction_are_measured():
    true, predicted = three_volumes()
    cleaned = replace(predicting(predicted), cleaned=torch.from_numpy(np.stack(true)))
    found = figures_of(batch_of(true), cleaned)
    assert (found["hd95"], found["dice"]) == (0, 1)
    assert found["pixel_ece"] == figures_of(batch_of(true), predicting(predicted))["pixel_ece"]


def test_a_recipe_without_pixel_classes_has_no_distances():
    batch = batch_of(three_volumes()[0])
    assert Surfaces().columns(batch, Prediction(image_probability=torch.ones(3, 1)), manifest_for(batch)) == {}


def test_distances_have_intervals_over_the_cases():
    true = [blob(VOLUME, seed).astype(np.uint8) for seed in range(8)]
    predicted = [blob(VOLUME, seed + 50).astype(np.uint8) for seed in range(8)]
    columns, families = columns_of(batch_of(true), predicting(predicted), draws=200)
    value = summarise(columns.cases, columns.manifest, families=families)["hd95"]
    low, high = intervals(columns.cases, columns.manifest, families=families)["hd95"]
    each = columns.column("hd95_1")
    assert each.min() <= low < value < high <= each.max()


def test_the_best_checkpoint_can_be_that_of_the_smallest_distance():
    manifest = manifest_for(batch_of(three_volumes()[0]))
    selection = parse_selection("hd95", FAMILIES)
    check_selection(selection, manifest, FAMILIES)
    assert selection.lower_is_better
    assert not selection.by_empty_masks
    assert selection.is_better(3.0, 4.0)
    with pytest.raises(UmlError, match="lower is better for assd_atrium, higher for dice"):
        parse_selection("mean(dice, assd_atrium)", FAMILIES)
    with pytest.raises(UmlError, match="'hd95' is not a metric of this data"):
        check_selection(parse_selection("hd95"), manifest)


def test_definitions_cover_every_metric_and_masks_are_required():
    manifest = manifest_of(mask_classes=("background", "a", "b"), masked=0)
    lacks = {name: lack for name, lack in formable(manifest, FAMILIES).items() if name.startswith(("hd", "as", "surf"))}
    assert len(lacks) == 10
    assert set(lacks.values()) == {"an image with a mask"}
    for name in lacks:
        assert definition_of(name, FAMILIES).lower_is_better
