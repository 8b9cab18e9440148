"""Tests of the importer of EyePACS, on synthetic data."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fundus_layouts import write_eyepacs
from uml_shards import ShardError, open_split
from uml_shards.format.picture import decode_image
from uml_shards.importers import Options, find_importer
from uml_shards.write.writer import write_split

Eyepacs = find_importer("eyepacs")


@pytest.fixture
def raw(tmp_path) -> Path:
    return write_eyepacs(tmp_path / "raw")


def importer_of(raw: Path, **settings: str):
    return Eyepacs(raw, Options(size=16, settings=settings))


def patients_of(importer) -> dict[str, list[str]]:
    return {split: [item.meta["patient"] for item in source.items] for split, source in importer.splits().items()}


def append(file: str, row: str):
    def change(raw: Path) -> None:
        with (raw / file).open("a") as table:
            table.write(f"{row}\n")

    return change


def test_both_eyes_of_a_patient_are_in_one_split(raw):
    found = patients_of(importer_of(raw, val="0.3"))
    assert {split: len(patients) for split, patients in found.items() if split == "test"} == {"test": 20}
    assert found["val"]
    for patients in found.values():
        assert all(patients.count(patient) == 2 for patient in patients)
    assert len(set().union(*found.values())) == sum(len(set(patients)) for patients in found.values()) == 40


def test_grades_and_patients_are_stored(raw, tmp_path):
    importer = importer_of(raw)
    manifest = write_split(importer, "test", importer.splits()["test"], tmp_path / "test", quiet=True)
    assert manifest.classes == ("no_dr", "mild", "moderate", "severe", "proliferative")
    assert manifest.tasks == {"abnormal": (1, 2, 3, 4), "referable": (2, 3, 4)}
    split = open_split(tmp_path / "test")
    for sample in map(split.read, range(20)):
        patient, _, eye = sample.key.partition("_")
        assert eye in ("left", "right")
        assert (sample.meta["patient"], sample.label) == (patient, int(patient) % 5)


def test_public_test_images_become_val_if_asked_for(raw):
    found = patients_of(importer_of(raw, public="val"))
    assert {int(patient) % 8 for patient in found["val"]} == {4}
    assert {int(patient) % 8 for patient in found["test"]} == {0}
    assert len(found["train"]) == 60


def test_the_test_part_is_optional(raw):
    (raw / "test").rename(raw.parent / "test")
    (raw / "retinopathy_solution.csv").unlink()
    assert list(importer_of(raw, val="0").splits()) == ["train"]


def test_absent_images_are_refused_or_counted(raw):
    (raw / "train" / "11_left.jpeg").unlink()
    with pytest.raises(ShardError, match=r"eyepacs: 1 of the 60 images in .*Labels\.csv are not in .* absent=skip"):
        importer_of(raw).splits()
    importer = importer_of(raw, absent="skip")
    assert sum(len(source.items) for source in importer.splits().values()) == 79
    assert importer.take_notes()["images of trainLabels.csv that are not in RAW, first 11_left"] == 1


def encoded(raw: Path, key: str) -> dict[str, bytes]:
    importer = importer_of(raw, val="0")
    return importer.encode(next(item for item in importer.splits()["train"].items if item.key == key))[1]


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.full((20, 20), 900, np.uint16)).save(path, format="PNG")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(b"no image"), r"11_left\.jpeg cannot be read"),
        (sixteen_bits, r"11_left\.jpeg: the image has 16 bits: store it with 8 bits per channel"),
    ],
)
def test_an_image_that_cannot_be_used_is_reported_in_one_line(raw, damage, reason):
    damage(raw / "train" / "11_left.jpeg")
    with pytest.raises(ShardError, match=reason) as caught:
        encoded(raw, "11_left")
    assert "\n" not in str(caught.value)


def test_a_grey_image_is_stored_in_rgb(raw):
    with Image.open(raw / "train" / "11_left.jpeg") as opened:
        grey = opened.convert("L")
    grey.save(raw / "train" / "11_left.jpeg")
    assert decode_image(encoded(raw, "11_left")["jpg"], "jpg").shape == (16, 16, 3)


def test_files_that_are_no_images_are_counted(raw):
    for name in ("Thumbs.db", ".hidden.jpeg"):
        (raw / "train" / name).write_bytes(b"")
    importer = importer_of(raw)
    importer.splits()
    assert importer.take_notes() == {
        f"files not used (.db), first {raw / 'train' / 'Thumbs.db'}": 1,
        f"files not used (hidden), first {raw / 'train' / '.hidden.jpeg'}": 1,
    }


def same_patient(raw: Path) -> None:
    (raw / "test" / "11_left.jpeg").touch()
    append("retinopathy_solution.csv", "11_left,0,Public")(raw)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (append("trainLabels.csv", "99_left,9"), r"trainLabels\.csv line 62: grade '9' must be an integer from 0 to 4"),
        (append("trainLabels.csv", "99_left"), r"trainLabels\.csv line 62: grade '' must be an integer from 0 to 4"),
        (append("trainLabels.csv", "11_left,1"), "line 62: image 11_left has a second row"),
        (
            append("trainLabels.csv", "99,1"),
            r"Labels\.csv: image '99' must be named PATIENT_left or PATIENT_right",
        ),
        (append("retinopathy_solution.csv", "99_left,1,public"), "line 22: Usage 'public' must be Public or Private"),
        (lambda raw: (raw / "retinopathy_solution.csv").unlink(), r"retinopathy_solution\.csv is missing"),
        (lambda raw: (raw / "trainLabels.csv").write_text("image\n11_left\n"), "has no column 'level'"),
        (
            lambda raw: (raw / "train" / "11_left.png").touch(),
            r"11_left\..* and .*11_left\..* have the same name: remove one",
        ),
        (same_patient, "1 patients are in both train and test, first '11'"),
    ],
)
def test_layout_problem_is_reported_in_one_line(raw, damage, reason):
    damage(raw)
    with pytest.raises(ShardError, match=reason) as caught:
        importer_of(raw, absent="skip", val="0").splits()
    assert str(caught.value).startswith("eyepacs: ")
    assert "\n" not in str(caught.value)


def test_val_is_refused_with_public_val(raw):
    with pytest.raises(ShardError, match="val has no effect with public=val"):
        importer_of(raw, public="val", val="0.2")
