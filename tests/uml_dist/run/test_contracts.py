"""What a recipe requires of each stream's shards, and what the configuration states of them."""

from typing import ClassVar

import pytest

from manifests import manifest_of
from uml_dist.config.schema import ModelConfig, RunConfig, StreamConfig
from uml_dist.errors import UmlError
from uml_dist.recipes import Recipe, StreamContract
from uml_dist.recipes.uml.recipe import UmlRecipe
from uml_dist.run.data import check_stream, check_truth

LESIONS = manifest_of(classes=(), mask_classes=(), mask_names=("drusen", "bleeding"))
GRADES = manifest_of(classes=("none", "mild", "severe"), mask_classes=())


class LesionsAndGrades(Recipe):
    """Declares two streams with different annotations, and one that follows the first."""

    name = "lesions_and_grades"
    streams: ClassVar = {
        "lesions": StreamContract(labels=False, masks="named"),
        "grades": StreamContract(labels=True, masks="none"),
        "more": StreamContract(),
    }


def check(stream, manifest, kind=LesionsAndGrades, name=None, **model):
    manifests = {"lesions": LESIONS, "grades": GRADES, "more": LESIONS, "train": manifest_of()}
    if kind is UmlRecipe:
        manifests = {"train": manifest_of()}
    streams = {"train": StreamConfig(shards="x", count=1)}
    config = RunConfig(recipe="toy", streams=streams, model=ModelConfig(**model))
    check_stream(config, kind, stream, manifest, manifests, name or stream)


@pytest.mark.parametrize(
    ("stream", "manifest"),
    [
        ("lesions", LESIONS),
        ("lesions", LESIONS.model_copy(update={"classes": ("none", "mild")})),  # labels that nobody needs
        ("grades", GRADES),
        ("grades", GRADES.model_copy(update={"mask_names": ("optic disc",)})),
        ("more", LESIONS),
        ("more", LESIONS.model_copy(update={"mask_names": ()})),  # pictures of which nothing is known
    ],
)
def test_shards_with_the_required_annotations_are_accepted(stream, manifest):
    check(stream, manifest)


@pytest.mark.parametrize(
    ("stream", "manifest", "message"),
    [
        ("lesions", GRADES, "needs one or more named masks in stream lesions: the shards of lesions have 0"),
        ("lesions", LESIONS.model_copy(update={"mask_names": ("drusen",)}), r"mask_names of lesions are \('drusen',\)"),
        ("grades", LESIONS, "needs two or more image classes in stream grades: the shards of grades have 0"),
        ("more", manifest_of(classes=()), r"the mask_classes of more are .*, but those of stream lesions are \(\)"),
        ("grades", GRADES.model_copy(update={"channels": 1}), "number of channels is 1 in the images of grades and 3"),
    ],
)
def test_shards_without_the_required_annotations_are_refused_in_one_line(stream, manifest, message):
    with pytest.raises(UmlError, match=message) as raised:
        check(stream, manifest)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("missing", ["classes", "mask_classes"])
def test_uml_takes_shards_of_one_task(missing):
    check("train", manifest_of(**{missing: ()}), UmlRecipe)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": (), "mask_classes": ()}, "needs image classes, pixel classes or both in stream train"),
        ({"classes": ("benign",)}, "needs two or more image classes in stream train: the shards of train have 1"),
    ],
)
def test_uml_refuses_shards_without_names_with_the_remedy(changes, message):
    with pytest.raises(UmlError, match=f"{message}.*: name them when you make the shards"):
        check("train", manifest_of(**changes), UmlRecipe)


def test_uml_refuses_masks_that_may_overlap():
    message = "needs two or more pixel classes in stream train: the shards of train have 0, but masks of drusen"
    with pytest.raises(UmlError, match=message):
        check("train", manifest_of(mask_classes=(), mask_names=("drusen",)), UmlRecipe)


def test_training_without_any_label_or_mask_is_refused():
    check_truth(UmlRecipe, {"train": manifest_of(labelled=1, masked=0)})
    with pytest.raises(UmlError, match=r"no sample of stream train has a label or a mask.*streams\.train\.more_shards"):
        check_truth(UmlRecipe, {"train": manifest_of(labelled=0, masked=0)})


def test_a_validation_is_checked_by_the_contract_of_its_stream():
    check("grades", GRADES, name="validation grades")
    with pytest.raises(UmlError, match="the classes of validation grades are"):
        check("grades", GRADES.model_copy(update={"classes": ("none", "mild", "worst")}), name="validation grades")


def test_class_counts_of_the_configuration_hold_where_the_contract_compares_classes():
    check("grades", GRADES, classes=3)
    with pytest.raises(UmlError, match=r"model\.classes = 2, but the shards of grades have 3"):
        check("grades", GRADES, classes=2)
    check("lesions", LESIONS, classes=3)
