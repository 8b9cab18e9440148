"""Tests of finding and reading the table of labels: nothing is lost, and no missing value becomes a class."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uml_shards import ShardError
from uml_shards.importers import Options, find_importer
from uml_shards.importers.missing_values import is_missing, missing_codes, spellings

Folder = find_importer("folder")
NAMES = tuple("abcdef")


def tree(raw: Path) -> Path:
    (raw / "images").mkdir(parents=True)
    for name in NAMES:
        (raw / "images" / f"{name}.png").write_bytes(name.encode())
    return raw


def write_table(path: Path, column: str, values, delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([("image", column), *zip(NAMES, values, strict=False)])


def source(raw: Path, **settings: str):
    made = Folder(raw, Options(settings={"val": "0", "test": "0", **settings}))
    return made, made.splits()["train"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Labels.csv", "did you mean labels.csv"),
        ("LABELS.CSV", "did you mean labels.csv"),
        ("label.csv", "did you mean labels.csv"),
        ("labelz.csv", "did you mean labels.csv"),
        ("labels (1).csv", "did you mean labels.csv"),
        ("labels.tsv", "did you mean labels.csv"),
        ("labels.csv.txt", "did you mean labels.csv"),
        ("labels.json", "did you mean labels.csv"),
        ("images/labels.csv", "did you mean labels.csv"),
        ("tables/labels.xlsx", "pass --set labels=tables/labels.xlsx"),
        ("labels.xls", "save it as .*labels.csv"),
        ("metadata.csv", "pass --set labels=metadata.csv"),
        ("images/clinical.tsv", "pass --set labels=images/clinical.tsv"),
        ("clinical.parquet", "save it as .*labels.csv"),
    ],
)
def test_a_table_of_another_name_is_not_passed_over(tmp_path, name, reason):
    raw = tree(tmp_path)
    write_table(raw / name, "label", "xyxyxy")
    with pytest.raises(ShardError, match=reason) as caught:
        source(raw)
    assert f"there is {raw / name}" in str(caught.value)
    assert "labels=none" in str(caught.value)
    assert source(raw, labels="none")[1].classes == ()


def test_two_tables_of_similar_names_are_refused(tmp_path):
    raw = tree(tmp_path)
    write_table(raw / "labels.csv", "label", "xyxyxy")
    write_table(raw / "labels_old.csv", "label", "yxyxyx")
    with pytest.raises(ShardError, match=r"labels\.csv and .*labels_old\.csv may both be the table of labels"):
        source(raw)
    made, found = source(raw, labels="labels.csv")
    assert found.classes == ("x", "y")
    assert made.take_notes() == {f"files not used (.csv), first {raw}/labels_old.csv": 1}


@pytest.mark.parametrize(("name", "delimiter"), [("clinical/table.tsv", "\t"), ("list.csv", ",")])
def test_the_table_can_be_stated(tmp_path, name, delimiter):
    raw = tree(tmp_path)
    write_table(raw / name, "label", "xyxyxy", delimiter)
    assert source(raw, labels=name)[1].classes == ("x", "y")


def test_numbers_and_empty_cells_of_a_workbook_are_read(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    raw, book = tree(tmp_path), openpyxl.Workbook()
    for row in (("image", "label"), ("a", 1.0), ("b", 0), ("c", None), ("d", 1), ("e", "0"), ("f", None)):
        book.active.append(row)
    book.save(raw / "labels.xlsx")
    _, found = source(raw, labels="labels.xlsx")
    assert found.classes == ("0", "1")
    assert {item.image.stem: item.label for item in found.items} == {
        "a": 1,
        "b": 0,
        "c": None,
        "d": 1,
        "e": 0,
        "f": None,
    }


@pytest.mark.parametrize(("given", "reason"), [("no.csv", "does not exist"), ("images/a.png", "must be one of .csv")])
def test_a_stated_table_that_cannot_be_read_is_refused(tmp_path, given, reason):
    with pytest.raises(ShardError, match=f"setting labels={given}: .*{reason}"):
        source(tree(tmp_path), labels=given)


def test_columns_that_are_not_used_are_noted(tmp_path):
    raw = tree(tmp_path)
    (raw / "labels.csv").write_text("image,age,label,diagnosis\na,50,x,naevus\nb,51,y,naevus\n")
    assert source(raw)[0].take_notes() == {f"columns of {raw}/labels.csv not used (age, diagnosis)": 2}


def test_repeated_columns_are_refused(tmp_path):
    raw = tree(tmp_path)
    (raw / "labels.csv").write_text("image,label,label\na,x,y\n")
    with pytest.raises(ShardError, match=r"labels\.csv has two columns 'label': remove or rename one"):
        source(raw)


@pytest.mark.parametrize("mark", ["NA", "n/a", "N/A", "None", "null", "NaN", "?", "-", "#N/A", "<NA>", "unknown", "."])
@pytest.mark.parametrize("column", ["label", "patient", "split"])
def test_marks_of_a_missing_value_are_refused(tmp_path, mark, column):
    raw = tree(tmp_path)
    write_table(raw / "labels.csv", column, ["x", "y", mark, "x", "y", "x"])
    with pytest.raises(ShardError, match=f"row 4: {column} .*: leave the cell empty if it is unknown") as caught:
        source(raw)
    assert repr(mark) in str(caught.value)


def test_a_class_may_have_the_name_of_a_missing_value_if_it_is_listed(tmp_path):
    raw = tree(tmp_path)
    write_table(raw / "labels.csv", "label", ["none", "mild", "none", "mild", "none", ""])
    assert source(raw, classes="none,mild")[1].classes == ("none", "mild")


@pytest.mark.parametrize(
    ("values", "code"), [(["0", "1", "-1", "0", "1", "1"], "-1"), (["1", "2", "9", "1", "2", "9"], "9")]
)
def test_numbers_that_stand_for_a_missing_value_are_refused(tmp_path, values, code):
    raw = tree(tmp_path)
    write_table(raw / "labels.csv", "label", values)
    with pytest.raises(ShardError, match=rf"{values.count(code)} images have the label '{code}': leave the cell empty"):
        source(raw)
    classes = ",".join(sorted(set(values)))
    assert len(source(raw, classes=classes)[1].classes) == 3


@pytest.mark.parametrize(
    ("column", "values", "pair"),
    [
        ("label", ["1", "1.0", "0", "1", "0", "0"], "'1' and '1.0'"),
        ("label", ["Benign", "benign", "x", "x", "x", "x"], "'Benign' and 'benign'"),
        ("label", ["grade 1", "grade-1", "x", "x", "x", "x"], "'grade 1' and 'grade-1'"),
        ("label", ["Größe", "größe", "x", "x", "x", "x"], "'Größe' and 'größe'"),
        ("patient", ["P1", "p1", "P2", "P3", "P4", "P5"], "'P1' and 'p1'"),
        ("patient", ["001", "1", "2", "3", "4", "5"], "'001' and '1'"),
    ],
)
def test_values_that_differ_only_in_spelling_are_refused(tmp_path, column, values, pair):
    raw = tree(tmp_path)
    write_table(raw / "labels.csv", column, values)
    with pytest.raises(ShardError, match=f"{pair}.* of column {column} differ only in spelling"):
        source(raw)


@pytest.mark.parametrize(
    ("split", "meant"), [("training", "train"), ("Train", "train"), ("validation", "val"), ("tset", "test")]
)
def test_misspelt_splits_are_refused(tmp_path, split, meant):
    raw = tree(tmp_path)
    write_table(raw / "labels.csv", "split", [split, "train", "train", "val", "val", "test"])
    with pytest.raises(ShardError, match=rf"did you mean {meant}\?|differ only in spelling"):
        Folder(raw, Options()).splits()


@pytest.mark.parametrize("split", ["external", "test_2", "train2", "hospital_b"])
def test_other_splits_keep_their_names(tmp_path, split):
    raw = tree(tmp_path)
    write_table(raw / "labels.csv", "split", [split, "train", "train", "val", "val", "test"])
    assert split in Folder(raw, Options()).splits()


def test_the_encoding_of_accents_makes_no_class(tmp_path):
    raw = tree(tmp_path)
    write_table(raw / "labels.csv", "label", ["Größe", "Gro\u0308ße", "x", "x", "x", "x"])
    assert source(raw)[1].classes == ("Größe", "x")


@pytest.mark.parametrize("label", ["\x1b[2Jx", "a\nerror: forged", "A" * 200, "\u202etxet"])
def test_labels_that_cannot_be_shown_are_refused(tmp_path, label):
    raw = tree(tmp_path)
    write_table(raw / "labels.csv", "label", [label, "x", "x", "x", "x", "x"])
    with pytest.raises(ShardError, match=r"labels\.csv: label: the name .*: rename it") as caught:
        source(raw)
    assert str(caught.value).isprintable()


def test_ordinary_values_are_neither_missing_nor_alike():
    values = ["0", "1", "2", "10", "9", "8", "normal", "abnormal", "P1", "P11", "no", "x"]
    assert not any(map(is_missing, values))
    assert missing_codes(values) == []
    assert spellings(values) == []


@pytest.mark.parametrize("given", [{"val": "0.3"}, {"folds": "3", "fold": "1"}])
def test_validation_is_drawn_beside_a_stated_test_split(tmp_path, given):
    names = [f"n{number}" for number in range(40)]
    rows = [f"{name},P{number // 2},{'test' if number < 10 else 'train'}" for number, name in enumerate(names)]
    for name in names:
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{name}.png").write_bytes(name.encode())
    (tmp_path / "labels.csv").write_text("\n".join(["image,patient,split", *rows]))
    assert set(Folder(tmp_path, Options()).splits()) == {"train", "test"}
    sources = Folder(tmp_path, Options(settings=given)).splits()
    patients = {split: {int(item.image.stem[1:]) // 2 for item in source.items} for split, source in sources.items()}
    assert patients["test"] == set(range(5))
    assert patients["train"] | patients["val"] == set(range(5, 20))
    assert not patients["train"] & patients["val"]


@pytest.mark.parametrize("keys", ["hashed", "names"])
def test_samples_know_their_patient_under_a_key(tmp_path, keys):
    raw = tmp_path / "raw"
    for number in range(4):
        path = raw / "images" / f"i{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(path)
    rows = ["image,patient", "i0,Jane Doe", "i1,Jane Doe", "i2,P2", "i3,P3"]
    (raw / "labels.csv").write_text("\n".join(rows))
    made, found = source(raw, keys=keys, salt="secret")
    patients = [json.loads(made.encode(item)[1]["json"])["patient"] for item in found.items]
    assert len(set(patients)) == 3
    assert patients[0] == patients[1]
    assert ("Jane_Doe" in patients) == (keys == "names")
    assert "Jane Doe" not in patients
