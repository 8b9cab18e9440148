"""Names of metrics: every one has its table and its title."""

import pytest

from uml_dist.metrics.families import STANDARD, Grades, Outliers, Surfaces
from uml_dist.report.names import OTHERS, grouped, title_of

ALL = [name for family in (*STANDARD, Grades(), Surfaces(), Outliers()) for name in family.definitions]


@pytest.mark.parametrize("name", [*ALL, "loss"])
def test_every_metric_of_ours_has_a_table(name):
    name = name + "melanoma" if name.endswith("_") else name
    assert OTHERS not in grouped([name])


def test_a_mean_stands_before_its_classes_and_a_stranger_last():
    names = ["own_metric", "sensitivity_malignant", "dice_rim", "sensitivity", "dice", "dice_disc"]
    tables = grouped(names)
    assert list(tables) == ["Segmentation", "Class of the image", OTHERS]
    assert tables["Segmentation"] == ["dice", "dice_rim", "dice_disc"]
    assert tables["Class of the image"] == ["sensitivity", "sensitivity_malignant"]


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("image_augrc_entropy", "Image AUGRC entropy"),
        ("dice_dice", "Dice Dice"),
        ("hd95_LV_ece_x_ece", "HD95 LV ECE x ece"),
        ("class_sensitivity_", "Class sensitivity "),
        ("", ""),
    ],
)
def test_titles_spell_our_words_and_keep_those_of_others(name, title):
    assert title_of(name) == title
