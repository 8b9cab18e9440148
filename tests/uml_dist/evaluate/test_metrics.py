"""Metrics of a split, against scikit-learn and against numbers worked out by hand."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from manifests import manifest_of
from uml_dist.evaluate.metrics import LOWER_IS_BETTER, metric_names, summarise

NAN = float("nan")
THREE = manifest_of(classes=("nevus", "keratosis", "melanoma"), tasks={"melanoma": (2,), "not_nevus": (1, 2)})


def image_case(label, *probability):
    values = {f"probability_{number}": value for number, value in enumerate(probability)}
    nll = -np.log(probability[label]) if label >= 0 else NAN
    return {"key": "a", "label": float(label), **values, "image_nll": nll}


def pixel_case(areas, pixel_nll=0.5, label=-1.0):
    """Of (intersection, predicted, true) of each class."""
    case = {"key": "a", "label": label, "pixels": sum(true for _, _, true in areas), "pixel_nll": pixel_nll}
    for number, (both, predicted, true) in enumerate(areas):
        case |= {f"intersection_{number}": both, f"predicted_{number}": predicted, f"true_{number}": true}
    return case


def unmasked_case(classes=2):
    return pixel_case([(0, 0, 0)] * classes, NAN)


def drawn_cases(classes, samples=60, seed=1):
    generator = np.random.default_rng(seed)
    probability = generator.dirichlet(np.ones(classes), samples)
    label = np.array([generator.choice(classes, p=row) for row in probability])
    return label, probability, [image_case(k, *row) for k, row in zip(label, probability, strict=True)]


def test_two_classes_agree_with_scikit_learn():
    label, probability, cases = drawn_cases(2)
    found = summarise([*cases, image_case(-1, 0.9, 0.1)], manifest_of(tasks={"malignant": (1,)}))
    assert found["accuracy"] == pytest.approx(accuracy_score(label, probability.argmax(1)))
    assert found["auroc"] == pytest.approx(roc_auc_score(label, probability[:, 1]))
    assert found["auroc_malignant"] == found["auroc"]
    assert found["image_nll"] == pytest.approx(-np.log(probability[np.arange(60), label]).mean())
    assert found["loss"] == found["image_nll"]


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
    assert set(only_masks) == {"loss", "pixel_nll", "dice", "dice_lesion"}


def test_one_class_alone_has_an_accuracy_and_no_auroc():
    cases = [image_case(1, 0.2, 0.8), image_case(1, 0.7, 0.3)]
    found = summarise(cases, manifest_of(tasks={"malignant": (1,)}))
    assert set(found) == {"loss", "image_nll", "accuracy"}
    assert found["accuracy"] == 0.5


def test_a_class_that_does_not_occur_leaves_the_tasks_that_can_be_formed():
    cases = [image_case(0, 0.6, 0.3, 0.1), image_case(2, 0.1, 0.2, 0.7), image_case(0, 0.2, 0.5, 0.3)]
    found = summarise(cases, THREE)
    assert "auroc" not in found
    assert (found["auroc_melanoma"], found["auroc_not_nevus"]) == (1.0, 1.0)


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
    complete = [{**pixel_case([(9, 9, 9), (1, 1, 1)]), **case} for case in cases]
    assert set(metric_names(manifest)) == set(summarise(complete, manifest))
    assert {"loss", "image_nll", "pixel_nll"} == LOWER_IS_BETTER & set(metric_names(manifest))


def test_names_leave_out_what_a_split_without_labels_or_masks_cannot_give():
    assert metric_names(manifest_of(labelled=0, masked=0)) == ["loss"]
    assert "accuracy" not in metric_names(manifest_of(labelled=0))
    assert "dice" not in metric_names(manifest_of(masked=0))
