"""Metrics of a split, against scikit-learn and against numbers worked out by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

from case_rows import cases_of
from manifests import manifest_of
from uml_dist.metrics import summary
from uml_dist.metrics.columns import Columns
from uml_dist.metrics.image_scores import AGGREGATIONS, UNCERTAINTIES, column_of
from uml_dist.metrics.summary import definition_of, draw_metrics, interval_of, metric_names, metrics_of
from uml_shards.read.truth import auroc, calibration_error

NAN = float("nan")
THREE = manifest_of(classes=("nevus", "keratosis", "melanoma"), tasks={"melanoma": (2,), "not_nevus": (1, 2)})


def summarise(rows, manifest, empty="one"):
    return summary.summarise(cases_of(rows), manifest, empty)


def intervals(rows, manifest, draws=1000, seed=0):
    return summary.intervals(cases_of(rows, draws, seed), manifest)


def image_case(label, *probability, vacuity=0.5):
    values = {f"probability_{number}": value for number, value in enumerate(probability)}
    nll = -np.log(probability[label]) if label >= 0 else NAN
    return {"key": "a", "label": float(label), **values, "image_nll": nll, "image_vacuity": vacuity}


def pixel_case(areas, pixel_nll=0.5, label=-1.0):
    """Of (intersection, predicted, true) of each class."""
    pixels = sum(true for _, _, true in areas)
    case = {"key": "a", "label": label, "pixels": pixels, "pixel_nll": pixel_nll}
    for number, (both, predicted, true) in enumerate(areas):
        case |= {f"intersection_{number}": both, f"predicted_{number}": predicted, f"true_{number}": true}
    hits = sum(both for both, _, _ in areas)
    # Pixels of confidence 0.9; wrong ones are a bin more uncertain than right ones.
    case["pixel_calibration"] = np.array([[0, 0, 0]] * 13 + [[pixels, 0.9 * pixels, hits], [0, 0, 0]])
    case["vacuity_histogram"] = np.array([[hits, 0], [0, pixels - hits]])
    case["entropy_histogram"] = np.array([[0, hits], [pixels - hits, 0]])
    return case


def with_maps(case):
    """The case with the uncertainties of its maps, and their calibration along the border."""
    maps = {column_of(name, how): 0.25 for name in UNCERTAINTIES for how in AGGREGATIONS}
    return {**case, **maps, "pixel_brier": 0.25, "border_calibration": case["pixel_calibration"]}


def unmasked_case(classes=2):
    return pixel_case([(0, 0, 0)] * classes, NAN)


def drawn_cases(classes, samples=60, seed=1):
    generator = np.random.default_rng(seed)
    probability = generator.dirichlet(np.ones(classes), samples)
    label = np.array([generator.choice(classes, p=row) for row in probability])
    vacuity = generator.random(samples)
    cases = [image_case(k, *row, vacuity=u) for k, row, u in zip(label, probability, vacuity, strict=True)]
    return label, probability, cases


def test_two_classes_agree_with_scikit_learn():
    label, probability, cases = drawn_cases(2)
    found = summarise([*cases, image_case(-1, 0.9, 0.1)], manifest_of(tasks={"malignant": (1,)}))
    assert found["accuracy"] == pytest.approx(accuracy_score(label, probability.argmax(1)))
    assert found["auroc"] == pytest.approx(roc_auc_score(label, probability[:, 1]))
    assert found["auroc_malignant"] == found["auroc"]
    assert found["image_nll"] == pytest.approx(-np.log(probability[np.arange(60), label]).mean())
    assert found["loss"] == found["image_nll"]


@pytest.mark.parametrize("classes", [2, 3])
def test_decisions_and_the_detection_of_wrong_ones_agree_with_scikit_learn(classes):
    label, probability, cases = drawn_cases(classes)
    found = summarise(cases, manifest_of() if classes == 2 else THREE)
    decided = probability.argmax(1)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(label, decided))
    assert found["macro_f1"] == pytest.approx(f1_score(label, decided, average="macro"))
    vacuity = [case["image_vacuity"] for case in cases]
    assert found["image_error_auroc_vacuity"] == pytest.approx(roc_auc_score(decided != label, vacuity))
    entropy = -(probability * np.log(probability)).sum(1)
    assert found["image_error_auroc_entropy"] == pytest.approx(roc_auc_score(decided != label, entropy))


@pytest.mark.parametrize("classes", [2, 3])
def test_calibration_error_agrees_with_torchmetrics_and_with_that_of_the_oracle(classes):
    from torchmetrics.functional.classification import multiclass_calibration_error

    label, probability, cases = drawn_cases(classes, samples=300)
    found = summarise(cases, manifest_of() if classes == 2 else THREE)["image_ece"]
    arguments = torch.from_numpy(probability), torch.from_numpy(label), classes
    exact = float(multiclass_calibration_error(*arguments, n_bins=15, norm="l1"))
    assert exact > 0.02
    assert found == pytest.approx(exact, abs=1e-6)
    assert calibration_error(probability.max(1), probability.argmax(1) == label) == pytest.approx(exact, abs=1e-6)


def test_calibration_error_of_certainty_is_the_share_of_errors():
    cases = [image_case(1, 1e-300, 1.0), image_case(1, 0.0, 1.0), image_case(0, 1e-9, 1.0 - 1e-9)]
    assert summarise(cases, manifest_of())["image_ece"] == pytest.approx(1 / 3)


def test_where_nothing_or_everything_is_wrong_there_is_no_detection_of_errors():
    right, wrong = image_case(1, 0.2, 0.8), image_case(0, 0.2, 0.8)
    for cases in ([right, right], [wrong, wrong]):
        assert not any("error_auroc" in name for name in summarise(cases, manifest_of()))
    assert summarise([right, wrong], manifest_of())["image_error_auroc_vacuity"] == 0.5


def test_pixel_figures_are_pooled_over_the_cases_that_have_a_mask():
    cases = [pixel_case([(50, 60, 60), (30, 40, 40)]), pixel_case([(200, 200, 200), (0, 0, 0)]), unmasked_case()]
    found = summarise(cases, manifest_of())
    # 280 of 300 pixels are right, all at a confidence of 0.9.
    assert found["pixel_ece"] == pytest.approx(280 / 300 - 0.9)
    assert (found["pixel_error_auroc_vacuity"], found["pixel_error_auroc_entropy"]) == (1.0, 0.0)


def test_more_classes_are_each_held_against_the_rest():
    label, probability, cases = drawn_cases(3)
    found = summarise(cases, THREE)
    assert found["accuracy"] == pytest.approx(accuracy_score(label, probability.argmax(1)))
    assert found["auroc"] == pytest.approx(roc_auc_score(label, probability, multi_class="ovr", average="macro"))
    assert found["auroc_melanoma"] == pytest.approx(roc_auc_score(label == 2, probability[:, 2]))
    assert found["auroc_not_nevus"] == pytest.approx(roc_auc_score(label != 0, 1 - probability[:, 0]))


def test_dice_is_the_mean_over_masked_cases():
    cases = [pixel_case([(50, 60, 60), (30, 40, 40)]), pixel_case([(80, 90, 80), (10, 10, 20)]), unmasked_case()]
    found = summarise(cases, manifest_of())
    # 60 / 80 and 20 / 30.
    assert found["dice_lesion"] == pytest.approx((0.75 + 2 / 3) / 2)
    assert found["dice"] == found["dice_lesion"]
    assert "dice_background" not in found


def test_dice_of_a_class_that_is_empty_on_one_side_or_on_both():
    def dice(*areas):
        return summarise([pixel_case(areas)], manifest_of())["dice"]

    assert dice((100, 100, 100), (0, 0, 0)) == 1.0
    assert dice((90, 90, 100), (0, 10, 0)) == 0.0
    assert dice((90, 100, 90), (0, 0, 10)) == 0.0


def test_empty_classes_are_left_out_where_that_is_the_rule_and_counted_either_way():
    none = pixel_case([(100, 100, 100), (0, 0, 0)])
    missed = pixel_case([(90, 100, 90), (0, 0, 10)])
    found = pixel_case([(80, 90, 80), (10, 10, 20)])
    cases = [none, missed, found, unmasked_case()]
    assert summarise(cases, manifest_of())["dice"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert summarise(cases, manifest_of(), "leave-out")["dice"] == pytest.approx((0 + 2 / 3) / 2)
    assert summarise(cases, manifest_of(), "leave-out")["iou"] == pytest.approx((0 + 1 / 2) / 2)
    assert "dice" not in summarise([none], manifest_of(), "leave-out")
    assert Columns(cases_of(cases), manifest_of()).counts() == {
        **{"cases": 4, "labelled": 0, "masked": 3, "pixels": 300},
        **{"empty_truth_lesion": 1, "empty_prediction_lesion": 2, "empty_both_lesion": 1},
    }


@pytest.mark.parametrize("empty", ["one", "leave-out"])
def test_dice_of_present_classes_is_that_of_the_cases_whose_mask_contains_them(empty):
    found, missed = pixel_case([(9, 9, 9), (4, 6, 5)]), pixel_case([(9, 9, 9), (0, 0, 3)])
    absent, invented = pixel_case([(9, 9, 9), (0, 0, 0)]), pixel_case([(9, 9, 9), (0, 3, 0)])
    cases = [found, missed, absent, invented, unmasked_case()]
    assert summarise(cases, manifest_of(), empty)["dice_present"] == pytest.approx((8 / 11 + 0) / 2)
    assert "dice_present" not in summarise([absent, invented], manifest_of(), empty)


def test_the_dice_of_a_case_is_the_mean_over_the_classes_that_count_in_it():
    manifest = manifest_of(mask_classes=("background", "lesion", "hair"))
    cases = [
        pixel_case([(50, 50, 50), (10, 20, 20), (0, 0, 0)]),
        pixel_case([(50, 50, 50), (0, 0, 0), (0, 0, 0)]),
        pixel_case([(50, 50, 60), (0, 10, 0), (0, 0, 0)]),
        unmasked_case(3),
    ]
    np.testing.assert_allclose(Columns(cases_of(cases), manifest).dice, [0.75, 1.0, 0.5, NAN])
    np.testing.assert_allclose(Columns(cases_of(cases), manifest, "leave-out").dice, [0.5, NAN, 0.0, NAN])
    assert np.isnan(Columns(cases_of(cases), manifest_of(mask_classes=("background",))).dice).all()


def test_iou_is_the_mean_over_masked_cases():
    cases = [pixel_case([(50, 60, 60), (30, 40, 40)]), pixel_case([(80, 90, 80), (10, 10, 20)]), unmasked_case()]
    found = summarise(cases, manifest_of())
    assert found["iou_lesion"] == pytest.approx((30 / 50 + 10 / 20) / 2)
    assert found["iou"] == found["iou_lesion"]


def test_dice_of_several_classes_is_their_mean_without_the_background():
    manifest = manifest_of(mask_classes=("background", "lesion", "hair"))
    found = summarise([pixel_case([(0, 50, 50), (10, 20, 20), (5, 5, 5)])], manifest)
    assert (found["dice_lesion"], found["dice_hair"], found["dice"]) == (0.5, 1.0, 0.75)


def test_loss_is_the_sum_of_both_likelihoods_each_over_the_cases_that_have_it():
    cases = [
        {**pixel_case([(9, 9, 9), (1, 1, 1)], 0.25), **image_case(1, 0.5, 0.5)},
        {**pixel_case([(9, 9, 9), (1, 1, 1)], 0.75), **image_case(-1, 0.5, 0.5)},
        {**unmasked_case(), **image_case(0, 0.25, 0.75)},
    ]
    found = summarise(cases, manifest_of())
    assert found["pixel_nll"] == pytest.approx(0.5)
    assert found["image_nll"] == pytest.approx((np.log(2) + np.log(4)) / 2)
    assert found["loss"] == pytest.approx(0.5 + (np.log(2) + np.log(4)) / 2)


def test_what_cannot_be_formed_is_left_out():
    assert summarise([], manifest_of()) == {}
    unlabelled = {**unmasked_case(), **image_case(-1, 0.5, 0.5)}
    assert summarise([unlabelled], manifest_of()) == {}
    only_masks = summarise([pixel_case([(9, 9, 9), (1, 1, 1)])], manifest_of())
    overlaps = {"dice", "dice_present", "dice_lesion", "iou", "iou_lesion"}
    assert set(only_masks) == {"loss", "pixel_nll", *overlaps, "pixel_ece"}


def test_one_class_alone_has_an_accuracy_and_no_auroc():
    cases = [image_case(1, 0.2, 0.8), image_case(1, 0.7, 0.3)]
    found = summarise(cases, manifest_of(tasks={"malignant": (1,)}))
    errors = {"image_error_auroc_vacuity", "image_error_auroc_entropy"}
    decisions = {"accuracy", "sensitivity", "sensitivity_malignant", "weighted_f1"}
    kinds = ("augrc", "aurc", "error_at_80")
    selective = {f"image_{kind}_{name}" for kind in kinds for name in ("vacuity", "entropy")}
    assert set(found) == {"loss", "image_nll", "image_ece", "image_brier", *decisions, *errors, *selective}
    assert found["accuracy"] == 0.5


def test_a_class_that_does_not_occur_leaves_the_tasks_that_can_be_formed():
    cases = [image_case(0, 0.6, 0.3, 0.1), image_case(2, 0.1, 0.2, 0.7), image_case(0, 0.2, 0.5, 0.3)]
    found = summarise(cases, THREE)
    assert "auroc" not in found
    assert (found["auroc_melanoma"], found["auroc_not_nevus"], found["auroc_tasks"]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "bad", [image_case(0, NAN, NAN), {**pixel_case([(9, 9, 9), (1, 1, 1)], NAN), **image_case(0, 0.5, 0.5)}]
)
def test_predictions_that_are_no_numbers_have_no_metric_and_stop_nothing(bad):
    """Of a run that diverged: the validation must not end it with an error of its own, nor call it good."""
    assert summarise([bad, image_case(1, 0.4, 0.6), image_case(0, 0.6, 0.4)], manifest_of()) == {}


@pytest.mark.parametrize("manifest", [manifest_of(tasks={"malignant": (1,)}), THREE], ids=["two", "three"])
def test_names_are_exactly_what_a_complete_split_gives(manifest):
    classes = len(manifest.classes)
    _, _, cases = drawn_cases(classes)
    complete = [with_maps({**pixel_case([(9, 9, 10), (1, 2, 1)]), **case}) for case in cases]
    assert metric_names(manifest) == list(summarise(complete, manifest))
    lower = {name for name in metric_names(manifest) if definition_of(name).lower_is_better}
    selective = {name for name in metric_names(manifest) if "augrc" in name or "aurc" in name or "error_at" in name}
    assert len(selective) == 24
    assert lower == {
        *{"loss", "image_nll", "pixel_nll", "image_ece", "pixel_ece", "pixel_ece_border", "image_brier", "pixel_brier"},
        *selective,
    }
    assert all(definition_of(name).text for name in metric_names(manifest))


def test_names_leave_out_what_a_split_without_labels_or_masks_cannot_give():
    assert metric_names(manifest_of(labelled=0, masked=0)) == []
    assert "accuracy" not in metric_names(manifest_of(labelled=0))
    assert "dice" not in metric_names(manifest_of(masked=0))


@pytest.mark.parametrize("only", [0, 1])
def test_names_leave_out_what_a_split_of_one_class_cannot_give(only):
    manifest = manifest_of(tasks={"malignant": (1,)}, class_counts=(8 * (1 - only), 8 * only))
    right, wrong = (0.8, 0.2), (0.3, 0.7)
    cases = [with_maps({**pixel_case([(9, 9, 10), (1, 2, 1)]), **image_case(only, *said)}) for said in (right, wrong)]
    assert metric_names(manifest) == list(summarise(cases, manifest))


def test_intervals_are_the_percentiles_that_scipy_draws():
    label, probability, cases = drawn_cases(2, samples=120)
    found = intervals(cases, manifest_of(), draws=2000)
    hits = (probability.argmax(1) == label).astype(float)
    words = {"n_resamples": 2000, "method": "percentile", "rng": np.random.default_rng(5), "paired": True}
    accuracy = bootstrap((hits,), np.mean, **words).confidence_interval
    assert found["accuracy"] == pytest.approx(tuple(accuracy), abs=0.01)
    area = bootstrap((label, probability[:, 1]), auroc, vectorized=False, **words).confidence_interval
    assert found["auroc"] == pytest.approx(tuple(area), abs=0.01)


def test_intervals_are_the_same_at_every_call_and_hold_the_value():
    _, _, cases = drawn_cases(3)
    complete = [{**pixel_case([(9, 9, 10), (1, 2, 1)]), **case} for case in cases]
    found = intervals(complete, THREE)
    assert intervals(complete, THREE) == found
    assert intervals(complete, THREE, seed=1) != found
    values = summarise(complete, THREE)
    assert found.keys() == values.keys()
    assert all(low <= values[name] + 1e-12 <= high + 2e-12 for name, (low, high) in found.items())


def test_draws_of_two_models_are_paired_and_the_interval_of_their_difference_is_scipy_s():
    label, probability, cases = drawn_cases(2)
    sharper = probability**2 / (probability**2).sum(1, keepdims=True)
    others = [image_case(k, *row) for k, row in zip(label, sharper, strict=True)]

    def drawn(model, seed=0):
        model = cases_of(model, draws=20000, seed=seed)
        only = {"image_nll": metrics_of(model, manifest_of())["image_nll"]}
        return draw_metrics(only, model)["image_nll"]

    # So many draws leave a deviation of 0.002 in either bound.
    words = {"n_resamples": 20000, "method": "percentile", "rng": np.random.default_rng(5), "paired": True}
    rows = [np.array([case["image_nll"] for case in model]) for model in (cases, others)]
    expected = bootstrap(rows, lambda a, b, axis: a.mean(axis) - b.mean(axis), **words).confidence_interval
    assert interval_of(drawn(cases) - drawn(others)) == pytest.approx(tuple(expected), abs=0.01)
    assert np.std(drawn(cases) - drawn(others)) < 0.7 * np.std(drawn(cases) - drawn(others, seed=1))


def test_an_interval_that_cannot_be_formed_is_left_out():
    assert intervals([], manifest_of()) == {}
    assert intervals([image_case(1, 0.2, 0.8)], manifest_of()) == {}
    # One case in ten is of class 0: a third of the draws has none.
    cases = [image_case(0, 0.6, 0.4), *(image_case(1, 0.2 + k / 50, 0.8 - k / 50) for k in range(9))]
    assert "auroc" in summarise(cases, manifest_of())
    found = intervals(cases, manifest_of())
    assert "auroc" not in found
    assert found["accuracy"] == (1.0, 1.0)


def test_how_many_weights_are_held_at_once_changes_no_interval(monkeypatch):
    _, _, cases = drawn_cases(2)
    found = intervals(cases, manifest_of(), draws=100)
    monkeypatch.setattr("uml_dist.metrics.cases.BLOCK", 60 * 7)
    again = intervals(cases, manifest_of(), draws=100)
    assert again.keys() == found.keys()
    np.testing.assert_allclose(list(again.values()), list(found.values()))
