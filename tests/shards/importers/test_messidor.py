"""Tests of the importer of Messidor, on synthetic data."""

from pathlib import Path

import openpyxl
import pytest

from fundus_layouts import write_messidor
from uml_shards import ShardError, open_split
from uml_shards.importers import Options, find_importer
from uml_shards.importers.messidor import BASES
from uml_shards.write.writer import write_split

Messidor = find_importer("messidor")

COPIES = (
    *(f"20051202_{number}_0400_PP" for number in (55582, 41076, 48287, 48586, 55457, 55626, 54783, 48575, 55484)),
    *(f"20051202_{number}_0400_PP" for number in (55562, 54547)),
    *(f"20051205_{number}_0400_PP" for number in (32966, 32981)),
)
"""The images of Base33 that the errata leave out."""

FORMER = {
    "Base11": {"20051020_63045_0100_PP": 3, "20051020_63936_0100_PP": 3, "20051020_64007_0100_PP": 1},
    "Base13": {"20060523_48477_0100_PP": 2},
}
RIGHT = {
    "Base11_20051020_63045_0100_PP": 0,
    "Base11_20051020_63936_0100_PP": 1,
    "Base11_20051020_64007_0100_PP": 3,
    "Base13_20060523_48477_0100_PP": 3,
}


@pytest.fixture
def raw(tmp_path) -> Path:
    return write_messidor(tmp_path / "raw")


def importer_of(raw: Path, **settings: str):
    return Messidor(raw, Options(size=16, settings=settings))


def labels_of(importer, split: str = "test") -> dict[str, int]:
    return {item.key: item.label for item in importer.splits()[split].items}


@pytest.fixture(scope="module")
def complete(tmp_path_factory) -> Path:
    """All tables and images of the data set by name, 100 in each base; the images are empty files."""
    raw = tmp_path_factory.mktemp("messidor")
    for base in BASES:
        known = {**FORMER.get(base, {}), **(dict.fromkeys(COPIES, 1) if base == "Base33" else {})}
        grades = known | {f"image_{number}": number % 4 for number in range(100 - len(known))}
        (raw / base).mkdir()
        for name in grades:
            (raw / base / f"{name}.tif").touch()
        rows = [f"{name}.tif,department,{grade},0" for name, grade in grades.items()]
        header = "Image name,Ophthalmologic department,Retinopathy grade,Risk of macular edema "
        (raw / f"Annotation_{base}.csv").write_text("\n".join([header, *rows]) + "\n")
    return raw


def test_1187_images_remain_after_the_errata_and_four_grades_are_corrected(complete):
    importer = importer_of(complete)
    labels = labels_of(importer)
    assert len(labels) == 1187
    assert not {f"Base33_{name}" for name in COPIES} & labels.keys()
    assert {key: labels[key] for key in RIGHT} == RIGHT
    assert importer.take_notes() == {
        "copies of other images, left out by the errata": 13,
        "grades corrected by the errata": 4,
    }


def test_the_errata_are_ignored_if_asked_for(complete):
    importer = importer_of(complete, errata="ignore")
    labels = labels_of(importer)
    assert len(labels) == 1200
    assert {name: labels[f"Base11_{name}"] for name in FORMER["Base11"]} == FORMER["Base11"]
    assert not importer.take_notes()


def test_tables_that_are_corrected_already_are_accepted(tmp_path):
    raw = write_messidor(tmp_path, {"Base13": {"20060523_48477_0100_PP": 3, "a": 0}})
    (raw / "Annotation_Base13.csv").rename(raw / "Base13" / "Annotation_Base13_update20161024.csv")
    importer = importer_of(raw)
    assert labels_of(importer) == {"Base13_20060523_48477_0100_PP": 3, "Base13_a": 0}
    assert importer.take_notes() == {"bases that are not in RAW": 11}


def test_grades_are_stored_with_both_binary_tasks(raw, tmp_path):
    importer = importer_of(raw)
    manifest = write_split(importer, "test", importer.splits()["test"], tmp_path / "test", quiet=True)
    assert manifest.classes == ("no_dr", "mild", "moderate", "severe", "proliferative")
    assert manifest.class_counts == (8, 8, 8, 8, 0)
    assert manifest.tasks == {"abnormal": (1, 2, 3, 4), "referable": (2, 3, 4)}
    split = open_split(tmp_path / "test")
    assert {sample.key: sample.label for sample in map(split.read, range(32))} == labels_of(importer)


def test_the_grades_of_messidor_have_names_of_their_own_if_asked_for(raw):
    source = importer_of(raw, classes="own").splits()["test"]
    assert source.classes == ("grade_0", "grade_1", "grade_2", "grade_3")
    assert source.tasks == {"abnormal": (1, 2, 3), "referable": (2, 3)}


def test_splits_are_drawn_if_asked_for(raw):
    sources = importer_of(raw, test="0.3", val="0.2").splits()
    keys = [{item.key for item in source.items} for source in sources.values()]
    assert list(sources) == ["train", "val", "test"]
    assert sum(map(len, keys)) == len(set().union(*keys)) == 32


def test_a_table_is_also_read_from_a_workbook_beside_the_old_one(raw):
    text = (raw / "Annotation_Base11.csv").read_text().splitlines()
    (raw / "Annotation_Base11.csv").unlink()
    (raw / "Annotation_Base11.xls").write_bytes(b"not read")
    with pytest.raises(ShardError, match=r"Annotation_Base11\.xls is in Excel's old format, .* as \.csv or \.xlsx"):
        importer_of(raw).splits()
    book = openpyxl.Workbook()
    assert book.active is not None
    for line in text:
        book.active.append([int(cell) if cell.isdecimal() else cell for cell in line.split(",")])
    book.save(raw / "Annotation_Base11.xlsx")
    assert labels_of(importer_of(raw))["Base11_2005_Base11_3_PP"] == 3


def other_grade(raw: Path) -> None:
    write_messidor(raw, {"Base13": {"20060523_48477_0100_PP": 0}})


def second_table(raw: Path) -> None:
    (raw / "Base11" / "Annotation_Base11.tsv").write_text("")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (other_grade, "image 20060523_48477_0100_PP has grade 0, but the errata correct 2 to 3: .*errata=ignore"),
        (second_table, r"are two tables of Base11: keep one"),
        (lambda raw: (raw / "Annotation_Base11.csv").unlink(), "contains Base11, but no table Annotation_Base11"),
        (
            lambda raw: (raw / "Base11" / "2005_Base11_3_PP.tif").unlink(),
            r"1 of the 16 images in .* are not in ",
        ),
        (lambda raw: (raw / "Base11").rename(raw / "11"), r"folder .*Base11 is missing"),
        (lambda raw: write_messidor(raw, {"Base11": {"a": 4}}), r"line 2: grade '4' must be an integer from 0 to 3"),
    ],
)
def test_layout_problem_is_reported_in_one_line(raw, damage, reason):
    damage(raw)
    with pytest.raises(ShardError, match=reason) as caught:
        importer_of(raw).splits()
    assert str(caught.value).startswith("messidor: ")
    assert "\n" not in str(caught.value)


def test_a_folder_without_bases_is_refused(tmp_path):
    with pytest.raises(ShardError, match=r"messidor: .* contains none of Base11 to Base34"):
        importer_of(tmp_path).splits()
