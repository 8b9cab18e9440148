"""What `train.best` may say, what it means, and that whatever cannot rank checkpoints is refused in one line."""

import re
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests import manifest_of
from uml_dist.errors import UmlError
from uml_dist.metrics.selection import LISTED, check_selection, parse_selection
from uml_dist.metrics.summary import definition_of, metric_names

REFUGE = manifest_of(
    split="val",
    classes=("no_glaucoma", "glaucoma"),
    mask_classes=("background", "rim", "cup"),
    tasks={"glaucoma": (1,)},
    class_counts=(6, 2),
)
AUTHORS = "mean(accuracy, macro_f1, dice_rim, dice_cup)"
HIGHER = [name for name in metric_names(REFUGE) if not definition_of(name).lower_is_better]
WHITE = st.text(" \t\n", max_size=3)


def refused(text, manifest=REFUGE) -> str:
    """The one line with which a setting is refused."""
    with pytest.raises(UmlError) as raised:
        check_selection(parse_selection(text), manifest)
    line = str(raised.value)
    assert line.startswith("train.best")
    assert "\n" not in line
    return line


def test_a_plain_name_keeps_its_meaning():
    for name in metric_names(REFUGE):
        selection = parse_selection(f" {name}\n")
        assert (selection.name, selection.metrics) == (name, (name,))
        assert selection.lower_is_better == definition_of(name).lower_is_better
        assert selection.value({name: 0.1, "other": 7.0}) == 0.1
        check_selection(selection, REFUGE)


def test_the_mean_of_the_authors_is_worked_out_by_hand():
    selection = parse_selection(AUTHORS)
    check_selection(selection, REFUGE)
    figures = {"accuracy": 0.9, "macro_f1": 0.5, "dice_rim": 0.7, "dice_cup": 0.8, "dice": 0.75, "loss": 3.0}
    assert selection.value(figures) == pytest.approx(0.725)
    assert not selection.lower_is_better


@given(
    st.lists(st.sampled_from(HIGHER), min_size=1, max_size=6, unique=True).flatmap(
        lambda names: st.tuples(
            st.just(names),
            st.lists(WHITE, min_size=2 * len(names) + 2, max_size=2 * len(names) + 2),
            st.lists(st.floats(-1e6, 1e6), min_size=len(names), max_size=len(names)),
            st.permutations(names),
        )
    )
)
def test_any_list_in_any_order_and_with_any_white_space_is_its_mean(drawn):
    names, white, values, shuffled = drawn
    inside = ",".join(f"{white[2 * n]}{name}{white[2 * n + 1]}" for n, name in enumerate(names))
    selection = parse_selection(f"{white[-2]}mean{white[-1]}({inside})")
    assert selection == parse_selection(selection.name)
    assert selection.name == f"mean({', '.join(names)})"
    figures = dict(zip(names, values, strict=True))
    assert selection.value(figures) == pytest.approx(mean(values), rel=1e-12, abs=1e-9)
    # To the last bit: a run may go on with the list in another order.
    assert parse_selection(f"mean({','.join(shuffled)})").value(figures) == selection.value(figures)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"^train\.best is empty: set it to a metric, or to mean\(NAME, NAME\)$"),
        ("  \n ", r"^train\.best is empty"),
        ("mean()", r"the mean contains no metric: write mean\(NAME, NAME\)$"),
        ("mean( )", r"the mean contains no metric"),
        ("mean(,)", r"a name is missing between the commas"),
        ("mean(dice,)", r"a name is missing between the commas"),
        ("mean(dice,\n,iou)", r"a name is missing between the commas"),
        ("mean(dice, iou", r"the mean does not end with a closing parenthesis$"),
        ("mean(dice, iou) / 2", r"the mean does not end with a closing parenthesis$"),
        ("mean(dice, mean(iou, accuracy))", r"a mean cannot contain another mean: list all metrics in one$"),
        ("mean(mean (iou))", r"a mean cannot contain another mean"),
        ("mean(dice, iou, dice )", r"dice is in the mean twice: name each metric once$"),
        ("mean(loss, dice)", r"lower is better for loss, higher for dice: a mean of both cannot rank checkpoints"),
        ("mean(iou, image_ece, dice_cup, pixel_nll)", r"for image_ece, pixel_nll, higher for iou, dice_cup: "),
        (
            "dice_kup",
            r"^train\.best: 'dice_kup' is not a metric of this data \(did you mean dice_cup\?\): use one of loss, ",
        ),
        (
            "mean(dice_disk, dice_cup)",
            r"'dice_disk' is not a metric of this data \(did you mean dice\w*\?\): use one of",
        ),
        ("mean(accuracy, dice))", r"'dice\)' is not a metric of this data \(did you mean dice\?\)"),
        ("accuracy, dice", r"'accuracy, dice' is not a metric of this data.*, or mean\(NAME, NAME\) of them$"),
        ("min(accuracy, dice)", r"'min\(accuracy, dice\)' is not a metric of this data"),
        ("dice_background", r"'dice_background' is not a metric of this data"),
        ("auroc_melanoma", r"'auroc_melanoma' is not a metric of this data \(did you mean auroc_glaucoma\?\)"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(text, message):
    line = refused(text)
    assert re.search(message, line), line


def test_an_unknown_name_is_refused_with_those_that_there_are():
    listed = refused("zzz").partition("use one of ")[2].removesuffix(", or mean(NAME, NAME) of them")
    names, more = metric_names(REFUGE), f" and {len(metric_names(REFUGE)) - LISTED} more (uml_dist/METRICS.md)"
    assert len(names) > LISTED
    assert listed == ", ".join(names[:LISTED]) + more


def test_a_mean_of_metrics_where_lower_is_better_is_one_where_lower_is_better():
    selection = parse_selection("mean(image_ece, pixel_ece)")
    check_selection(selection, REFUGE)
    assert selection.lower_is_better
    assert selection.is_better(0.1, 0.2)
    assert not selection.is_better(0.2, 0.2)
    assert not selection.is_better(0.3, 0.2)


def test_the_first_value_is_the_best_so_far_and_equal_ones_are_not_better():
    selection = parse_selection(AUTHORS)
    assert selection.is_better(-1.0, None)
    assert selection.is_better(0.3, 0.2)
    assert not selection.is_better(0.2, 0.2)


@pytest.mark.parametrize("absent", [{}, {"dice": float("nan")}, {"dice": float("inf")}])
def test_a_mean_needs_every_one_of_its_metrics(absent):
    selection = parse_selection("mean(accuracy, dice)")
    assert selection.value({"accuracy": 0.5, **absent}) is None
    assert selection.missing({"accuracy": 0.5, **absent}) == ["dice"]
    assert selection.missing({"accuracy": 0.5, "dice": 0.0}) == []


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        ({"labelled": 0}, "macro_f1", "train.best: macro_f1 needs an image with a label, but split val has none: "),
        ({"masked": 0}, "dice_cup", "train.best: dice_cup needs an image with a mask, but split val has none: "),
        ({"class_counts": (8, 0)}, "auroc", "auroc needs an image of glaucoma, but split val has none: "),
        ({"class_counts": (8, 0)}, "auroc_glaucoma", "auroc_glaucoma needs an image of glaucoma, but split"),
        ({"class_counts": (0, 8)}, "auroc_tasks", "auroc_tasks needs an image of no_glaucoma, but split"),
        ({"class_counts": (0, 8)}, "balanced_accuracy", "needs an image of no_glaucoma"),
        ({"classes": ("one",), "class_counts": (8,), "tasks": {}}, "auroc", "auroc needs a second class"),
    ],
)
def test_what_the_validation_split_lacks_is_named(changes, name, message):
    line = refused(f"mean(accuracy, {name})" if "labelled" not in changes else name, REFUGE.model_copy(update=changes))
    assert message in line
    assert name not in line.partition("use one of ")[2].split(", ")


def test_a_split_without_counts_of_its_classes_is_taken_to_have_all_of_them():
    check_selection(parse_selection("mean(auroc, macro_f1)"), REFUGE.model_copy(update={"class_counts": ()}))


def test_class_names_with_spaces_and_parentheses_can_be_named():
    manifest = manifest_of(mask_classes=("background", "edema (ED)", "whole tumour"))
    for text in ("dice_edema (ED)", "mean(dice_edema (ED), iou_whole tumour)"):
        check_selection(parse_selection(text), manifest)


def test_only_overlaps_depend_on_the_rule_for_empty_masks():
    for name in metric_names(REFUGE):
        by_rule = name.startswith(("dice", "iou", "mask_")) and name != "dice_present"
        assert parse_selection(name).by_empty_masks == by_rule
    assert parse_selection("mean(accuracy, dice_rim)").by_empty_masks
    assert not parse_selection("mean(accuracy, macro_f1)").by_empty_masks
