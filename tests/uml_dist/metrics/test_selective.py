"""Uncertainties of images from their maps, and what is gained by referring the most uncertain cases."""

import numpy as np
import pytest
import torch

from case_rows import cases_of
from manifests import manifest_of
from uml_dist.batch import Prediction
from uml_dist.metrics.borders import border
from uml_dist.metrics.columns import Columns
from uml_dist.metrics.families import PixelClasses, Selective
from uml_dist.metrics.image_scores import AGGREGATIONS, UNCERTAINTIES, column_of, image_scores
from uml_dist.metrics.summary import definition_of, formable, intervals, summarise

FAMILIES = (PixelClasses(), Selective())
ENTROPY = {"classes": (2, 3), "lesions": (2,)}


def by_hand(classes, valid, distance):
    """Which pixels have another class in the window around them, pixel by pixel."""
    found = np.zeros(classes.shape, dtype=bool)
    for place in np.argwhere(valid):
        window = tuple(slice(max(0, p - distance), p + distance + 1) for p in place)
        found[tuple(place)] = len(set(classes[window][valid[window]])) > 1
    return found


@pytest.mark.parametrize("shape", [(13, 9), (7, 6, 5)])
@pytest.mark.parametrize("distance", [1, 3])
def test_border_is_where_another_class_is_in_the_window(shape, distance):
    generator = np.random.default_rng(0)
    classes = (generator.random((2, *shape)) < 0.05).astype(np.uint8) * generator.choice([1, 2, 254], (2, *shape))
    valid = generator.random((2, *shape)) < 0.8
    found = border(torch.from_numpy(classes), torch.from_numpy(valid), distance).numpy()
    for number in range(2):
        assert (found[number] == by_hand(classes[number], valid[number], distance)).all()
    assert not border(torch.zeros(1, *shape)).any()


def prediction_of(shape, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randn(2, classes, *(-(-side // 4) for side in shape), generator=generator)
    logits = torch.nn.functional.interpolate(blocks, size=shape, mode="nearest") * 2
    vacuity = torch.rand(2, *shape, generator=generator)
    return Prediction(pixel_probability=logits.softmax(1), pixel_vacuity=vacuity)


@pytest.mark.parametrize("shape", [(12, 20), (8, 12, 5)])
def test_scores_are_the_three_aggregations_of_each_map(shape):
    prediction = prediction_of(shape)
    found = image_scores(prediction)
    probability = prediction.pixel_probability.double().numpy()
    maps = {
        "vacuity": prediction.pixel_vacuity.double().numpy(),
        "entropy": -(probability * np.log(probability)).sum(1) / np.log(3),
    }
    for number in range(2):
        classes = probability[number].argmax(0)
        along = by_hand(classes, np.ones(shape, dtype=bool), 1)
        for name, values in maps.items():
            expected = {
                "mean": values[number].mean(),
                "above": (values[number] > 0.5).mean(),
                "border": values[number][along].mean(),
            }
            for how, value in expected.items():
                assert float(found[column_of(name, how)][number]) == pytest.approx(value, abs=1e-6)
    assert len(found) == 6


def test_lesions_have_the_mean_entropy_of_the_lesions_along_the_border_of_any():
    probability = torch.full((1, 2, 8, 8), 0.1)
    probability[0, 0, :4] = 0.9
    probability[0, 1, :, 0] = 0.5
    found = image_scores(Prediction(lesion_probability=probability))
    entropy = [-(p * np.log2(p) + (1 - p) * np.log2(1 - p)) for p in (0.1, 0.5)]
    pixels = np.full((8, 8), entropy[0])
    pixels[:, 0] = np.mean(entropy)
    along = np.zeros((8, 8), dtype=bool)
    along[3:5] = along[:, :2] = True
    assert {name: float(values) for name, values in found.items()} == pytest.approx(
        {
            "map_entropy_mean": pixels.mean(),
            "map_entropy_above": (pixels > 0.5).mean(),
            "map_entropy_border": pixels[along].mean(),
        },
        abs=1e-6,
    )


def test_without_a_predicted_border_its_score_is_the_mean_over_all_pixels():
    probability = torch.tensor([0.9, 0.1])[None, :, None, None].expand(1, 2, 4, 4)
    vacuity = torch.arange(16.0).view(1, 4, 4) / 16
    found = image_scores(Prediction(pixel_probability=probability, pixel_vacuity=vacuity))
    assert found["map_vacuity_border"] == found["map_vacuity_mean"]


def test_a_prediction_without_maps_has_no_scores():
    assert image_scores(Prediction(image_probability=torch.ones(2, 1))) == {}
    single = Prediction(pixel_probability=torch.ones(2, 1, 4, 4))
    assert image_scores(single) == {}


def case(dice, score, **more):
    """A case whose mask has a Dice of so many hundredths."""
    areas = {"intersection_1": dice, "predicted_1": 100.0, "true_1": 100.0}
    maps = {column_of(name, how): score for name in UNCERTAINTIES for how in AGGREGATIONS}
    return {"key": "a", "label": -1.0, "pixels": 10000, "pixel_nll": 0.5, **areas, **maps, **more}


def figures(rows, empty="one"):
    return summarise(cases_of(rows), manifest_of(labelled=0), empty, FAMILIES)


def test_risk_of_a_mask_is_1_less_its_dice():
    found = figures([case(90, 0.1), case(50, 0.4), case(70, 0.2), case(80, 0.3), case(100, 0.05)])
    # In the order of the uncertainty: 0, 0.1, 0.3, 0.2, 0.5, of which four are kept.
    assert found["mask_error_at_80_vacuity_mean"] == pytest.approx(0.6 / 4)
    assert found["mask_aurc_entropy_border"] == pytest.approx(np.mean([0, 0.1 / 2, 0.4 / 3, 0.6 / 4, 1.1 / 5]))
    sums = np.array([0, 0, 0.1, 0.4, 0.6, 1.1])
    assert found["mask_augrc_vacuity_above"] == pytest.approx(((sums[1:] + sums[:-1]) / 2).sum() / 25)


def test_cases_without_a_mask_or_left_out_by_the_rule_count_nowhere():
    rows = [case(90, 0.1), case(50, 0.4), case(70, 0.2)]
    empty = case(0, 0.9, predicted_1=0.0, true_1=0.0)
    unmasked = case(0, 0.9, predicted_1=0.0, true_1=0.0, pixels=0, pixel_nll=np.nan)
    expected = figures(rows)
    assert figures([*rows, unmasked]) == pytest.approx(expected)
    left_out = figures([*rows, empty], "leave-out")
    assert left_out["mask_augrc_vacuity_mean"] == pytest.approx(expected["mask_augrc_vacuity_mean"])
    # Risks of 0.1, 0.3, 0.5 and 0, whose sums are 0.1, 0.4, 0.9 and 0.9.
    assert figures([*rows, empty])["mask_augrc_vacuity_mean"] == pytest.approx((0.05 + 0.25 + 0.65 + 0.9) / 16)
    assert not any(name.startswith("mask_") for name in figures([empty], "leave-out"))


def test_risk_of_an_image_is_a_wrong_class_by_vacuity_and_by_entropy():
    said = [(0, 0.9, 0.5), (1, 0.4, 0.4), (1, 0.3, 0.1), (0, 0.8, 0.2), (-1, 0.5, 0.9)]
    rows = [
        {"key": "a", "label": k, "probability_0": p, "probability_1": 1 - p, "image_nll": 0.0, "image_vacuity": u}
        for k, p, u in said
    ]
    found = summarise(cases_of(rows), manifest_of(masked=0), families=(Selective(),))
    assert found["image_error_at_80_vacuity"] == 0
    rows[1] |= {"probability_0": 0.6, "probability_1": 0.4}
    found = summarise(cases_of(rows), manifest_of(masked=0), families=(Selective(),))
    # By vacuity the wrong one is the third of four, by entropy the last.
    assert found["image_error_at_80_vacuity"] == pytest.approx(1 / 3.2)
    assert found["image_error_at_80_entropy"] == pytest.approx(0.2 / 3.2)
    assert found["image_aurc_vacuity"] == pytest.approx((1 / 3 + 1 / 4) / 4)
    assert found["image_aurc_entropy"] == pytest.approx(1 / 16)
    assert found["image_augrc_entropy"] == pytest.approx(0.5 / 16)


def test_figures_have_intervals_definitions_and_requirements():
    generator = np.random.default_rng(0)
    rows = [case(100 * (1 - s * generator.random()), s) for s in generator.random(40)]
    cases, manifest = cases_of(rows, draws=200), manifest_of(labelled=0)
    found = summarise(cases, manifest, families=FAMILIES)
    ends = intervals(cases, manifest, families=FAMILIES)
    names = [name for name in found if name.startswith("mask_")]
    assert len(names) == 18
    for name in names:
        assert ends[name][0] < found[name] < ends[name][1]
        assert definition_of(name, FAMILIES).lower_is_better
        assert definition_of(name, FAMILIES).by_empty_masks
    lacks = formable(manifest_of(labelled=0, masked=0), FAMILIES)
    assert {lacks[name] for name in names} == {"an image with a mask"}
    assert lacks["image_augrc_vacuity"] == "an image with a label"
    assert not any(name.startswith("mask_") for name in formable(manifest_of(mask_classes=("background",)), FAMILIES))


def test_the_table_of_cases_has_the_scores():
    columns = Columns(cases_of([case(90, 0.25)]), manifest_of(labelled=0))
    assert {name: list(values) for name, values in Selective().table(columns).items()} == {
        column_of(name, how): [0.25] for name in UNCERTAINTIES for how in AGGREGATIONS
    }
