"""Tests of the importer of IDRiD's part B, on synthetic data and, if available, on the real data."""

import os
import shutil
from pathlib import Path

import pytest

from fundus_layouts import TWINS, idrid_image, idrid_table, write_grades, write_idrid, write_twins
from uml_shards import ShardError, open_split
from uml_shards.importers import Options, find_importer
from uml_shards.write.writer import write_split

IdridGrading = find_importer("idrid_grading")
PART = "B. Disease Grading"
GRADES = {f"IDRiD_{number:03}": (number - 1) % 5 for number in range(1, 21)}


@pytest.fixture
def raw(tmp_path) -> Path:
    return write_idrid(tmp_path / "raw")


def importer_of(raw: Path, **settings: str):
    return IdridGrading(raw, Options(size=16, settings=settings))


def labels_of(importer) -> dict[str, dict[str, int | None]]:
    return {split: {item.key: item.label for item in source.items} for split, source in importer.splits().items()}


def copy_image(raw: Path, source: tuple[str, str], *targets: tuple[str, str]) -> None:
    for target in targets:
        shutil.copy(idrid_image(raw, *source, PART), idrid_image(raw, *target, PART))


def test_grades_are_read_from_tables_with_empty_columns_and_keys_name_the_split(raw, tmp_path):
    importer = importer_of(raw, leaks="keep", duplicates="keep")
    found = labels_of(importer)
    assert found["train"] == {f"train-{name}": grade for name, grade in GRADES.items()}
    assert found["test"] == {f"test-{name}": grade for name, grade in list(GRADES.items())[:10]}
    manifest = write_split(importer, "test", importer.splits()["test"], tmp_path / "test", quiet=True)
    assert (manifest.classes, manifest.class_counts) == (
        ("no_dr", "mild", "moderate", "severe", "proliferative"),
        (2, 2, 2, 2, 2),
    )
    assert (manifest.masked, manifest.size) == (0, (16, 16))
    split = open_split(tmp_path / "test")
    assert {sample.key: sample.label for sample in map(split.read, range(10))} == found["test"]


def test_images_that_part_a_has_in_the_other_split_are_left_out_and_counted(raw):
    importer = importer_of(raw)
    found = labels_of(importer)
    assert "train-IDRiD_005" not in found["train"]  # IDRiD_55 of part A's test split
    assert "test-IDRiD_003" not in found["test"]  # IDRiD_02 of part A's train split
    assert {"test-IDRiD_005", "train-IDRiD_003", "train-IDRiD_004"} <= found["train"].keys() | found["test"].keys()
    notes = importer.take_notes()
    assert notes["images of train that part A has in test, left out"] == 1
    assert notes["images of test that part A has in train, left out"] == 1


def test_leaks_are_kept_and_counted_if_asked_for(raw):
    importer = importer_of(raw, leaks="keep")
    found = labels_of(importer)
    assert "train-IDRiD_005" in found["train"]
    assert "test-IDRiD_003" in found["test"]
    assert importer.take_notes()["images of train that part A has in test, kept (leaks=keep)"] == 1


def test_a_copy_of_a_leak_is_left_out_too(raw):
    copy_image(raw, ("train", "IDRiD_005"), ("train", "IDRiD_001"), ("train", "IDRiD_020"))
    importer = importer_of(raw)
    assert not {"train-IDRiD_001", "train-IDRiD_005", "train-IDRiD_020"} & labels_of(importer)["train"].keys()
    assert importer.take_notes()["images of train that part A has in test, left out"] == 3


def test_without_the_table_of_twins_leaks_have_to_be_accepted(raw, tmp_path):
    table = (raw / TWINS).rename(tmp_path / "table.csv")
    with pytest.raises(
        ShardError, match=r"idrid_grading: .* leaks between .* cannot be excluded: .* leaks=keep"
    ) as caught:
        importer_of(raw).splits()
    assert "\n" not in str(caught.value)
    importer = importer_of(raw, leaks="keep")
    assert len(labels_of(importer)["train"]) == 20
    assert importer.take_notes()["images that may also be in part A, without a table of twins (leaks=keep)"] == 30
    assert "train-IDRiD_005" not in labels_of(importer_of(raw, twins=str(table)))["train"]


def test_identical_images_are_stored_once_and_without_a_grade_if_theirs_differ(raw):
    copy_image(raw, ("train", "IDRiD_008"), ("train", "IDRiD_013"))  # both of grade 2
    copy_image(raw, ("train", "IDRiD_009"), ("train", "IDRiD_010"))  # of grades 3 and 4
    importer = importer_of(raw)
    train = labels_of(importer)["train"]
    assert train["train-IDRiD_008"] == 2
    assert train["train-IDRiD_009"] is None
    assert not {"train-IDRiD_013", "train-IDRiD_010"} & train.keys()
    notes = importer.take_notes()
    assert notes["images identical to another one, left out"] == 3  # and train 007, by the table of twins
    assert notes["images stored without a grade, since those of identical images differ"] == 2
    assert train["train-IDRiD_006"] is None


def test_of_identical_images_in_both_splits_that_of_test_is_kept(raw):
    copy_image(raw, ("train", "IDRiD_008"), ("test", "IDRiD_008"))
    found = labels_of(importer_of(raw))
    assert "train-IDRiD_008" not in found["train"]
    assert found["test"]["test-IDRiD_008"] == 2


def test_absent_images_are_counted_or_refused(raw):
    for name in ("IDRiD_008", "IDRiD_011"):
        idrid_image(raw, "train", name, PART).unlink()
    importer = importer_of(raw)
    assert len(labels_of(importer)["train"]) == 16
    table = idrid_table(raw, "train").name
    assert importer.take_notes()[f"images of {table} that are not in RAW, first IDRiD_008"] == 2
    with pytest.raises(ShardError, match=r"2 of the 20 images in .* are not in .*, first IDRiD_008: .*absent=skip"):
        importer_of(raw, absent="error").splits()


def test_an_image_and_its_twin_are_drawn_into_the_same_split(raw):
    twins = [f"IDRiD_{number:02},a,train,IDRiD_{number + 10:03},{(number - 1) % 5},0,1," for number in range(5, 11)]
    write_twins(raw, ["IDRiD_01,a,,,,,0,", "IDRiD_02,a,,,,,0,", *twins])
    drawn = {}
    for name in ("idrid", "idrid_grading"):
        sources = find_importer(name)(raw, Options(settings={"val": "0.4"})).splits()
        drawn[name] = {item.key for item in sources["val"].items}
    pairs = {f"IDRiD_{number:02}": f"train-IDRiD_{number + 10:03}" for number in range(5, 11)}
    both = {one for one, other in pairs.items() if other in drawn["idrid_grading"]}
    assert both == drawn["idrid"] & pairs.keys()
    assert 0 < len(both) < 6


def rename_column(raw: Path) -> None:
    table = idrid_table(raw, "train")
    table.write_text(table.read_text().replace("Retinopathy grade", "Grade"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda raw: write_grades(raw, "train", {**GRADES, "IDRiD_002": 5}),
            "line 3: grade '5' must be an integer from 0",
        ),
        (lambda raw: write_grades(raw, "train", {**GRADES, "IDRiD_002": ""}), "line 3: grade '' must be an integer"),
        (
            lambda raw: write_grades(raw, "train", {**GRADES, "IDRiD_002.jpg": 1}),
            "line 22: image IDRiD_002 has a second",
        ),
        (lambda raw: write_grades(raw, "train", {**GRADES, "": 1}), "line 22: the name of the image is empty"),
        (
            lambda raw: write_grades(raw, "train", {"IDRiD_001": 1}),
            r"19 images in .* are not in .*csv, first .*002\.jpg",
        ),
        (lambda raw: write_grades(raw, "train", {}), r"Training Labels\.csv has no rows"),
        (lambda raw: idrid_table(raw, "test").unlink(), r"Testing Labels\.csv is missing"),
        (rename_column, "has no column 'Retinopathy grade': it needs Image name, Retinopathy grade"),
        (lambda raw: shutil.rmtree(raw / PART / "1. Original Images"), r"folder .*a\. Training Set is missing"),
    ],
)
def test_layout_problem_is_reported_in_one_line(raw, damage, reason):
    damage(raw)
    with pytest.raises(ShardError, match=reason) as caught:
        importer_of(raw).splits()
    assert str(caught.value).startswith("idrid_grading: ")
    assert "\n" not in str(caught.value)


@pytest.mark.real
def test_real_images_of_the_pack_have_their_grades():
    beside = Path(__file__).parents[3].parent / "shared" / "data"
    raw = Path(os.environ.get("UML_REAL_DATA", beside)) / "idrid"
    if not raw.is_dir():
        pytest.skip(f"no real data at {raw}: set UML_REAL_DATA")
    importer = importer_of(raw)
    found = labels_of(importer)
    counts = {split: [list(labels.values()).count(grade) for grade in range(5)] for split, labels in found.items()}
    assert counts == {"train": [6, 5, 1, 1, 1], "test": [2, 2, 1, 1, 1]}
    assert sorted(importer.take_notes().values()) == [96, 399]
