"""Tests of the importer of IDRiD's part A, on synthetic data and, if available, on the real data."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fundus_layouts import SQUARE, fundus, idrid_image, idrid_mask, lesion, red, write_idrid, write_twins
from uml_shards import ShardError, open_split
from uml_shards.format.picture import decode_image, decode_mask
from uml_shards.importers import Options, find_importer
from uml_shards.write.writer import write_split

Idrid = find_importer("idrid")
NAMES = ("microaneurysms", "haemorrhages", "hard_exudates", "soft_exudates")


@pytest.fixture
def raw(tmp_path) -> Path:
    return write_idrid(tmp_path / "raw")


def importer_of(raw: Path, size: int = 0, **settings: str):
    return Idrid(raw, Options(size=size, lossless=True, settings=settings))


def encoded(importer, split: str, key: str) -> dict[str, bytes]:
    item = next(item for item in importer.splits()[split].items if item.key == key)
    return importer.encode(item)[1]


def masks_of(components: dict[str, bytes]) -> dict[str, np.ndarray]:
    return {name.split(".")[1]: decode_mask(data, 2) for name, data in components.items() if name.startswith("mask.")}


def in_square(mask: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).crop(SQUARE))


def test_the_published_splits_have_named_masks_and_the_grades_of_the_twins(raw, tmp_path):
    importer = importer_of(raw, 24)
    sources = importer.splits()
    assert {split: len(source.items) for split, source in sources.items()} == {"train": 10, "test": 4}
    manifest = write_split(importer, "train", sources["train"], tmp_path / "train", quiet=True)
    assert (manifest.mask_names, manifest.masked, manifest.size) == (NAMES, 10, (24, 24))
    assert manifest.classes == ("no_dr", "mild", "moderate", "severe", "proliferative")
    assert manifest.tasks == {"abnormal": (1, 2, 3, 4), "referable": (2, 3, 4)}
    split = open_split(tmp_path / "train")
    labels = {sample.key: sample.label for sample in map(split.read, range(10)) if sample.label is not None}
    assert labels == {"IDRiD_01": 3, "IDRiD_02": 2}
    assert split.read(0).mask.shape == (4, 24, 24)


def test_masks_overlap_and_lie_on_the_cropped_image(raw):
    picture = fundus(4)
    picture[lesion(4, 0) == 1] = 255
    Image.fromarray(picture).save(idrid_image(raw, "train", "IDRiD_04"), quality=100, subsampling=0)
    components = encoded(importer_of(raw), "train", "IDRiD_04")
    masks = masks_of(components)
    for kind, name in enumerate(NAMES):
        np.testing.assert_array_equal(masks[name], in_square(lesion(4, kind)))
    assert (masks["microaneurysms"] & masks["haemorrhages"]).any()
    shown = decode_image(components["png"], "png")
    assert json.loads(components["json"])["crop"] == list(SQUARE)
    np.testing.assert_array_equal(shown[..., 2] > 150, masks["microaneurysms"] == 1)


def test_images_are_padded_to_a_square_with_black(raw):
    shown = decode_image(encoded(importer_of(raw), "train", "IDRiD_04")["png"], "png")
    assert shown.shape == (72, 72, 3)
    assert not shown[:6].any()
    assert not shown[-6:].any()
    assert shown[6].any()


def test_an_image_without_a_disc_is_kept_whole_and_counted(raw, tmp_path):
    Image.new("RGB", (96, 60), (120, 60, 30)).save(idrid_image(raw, "train", "IDRiD_04"))
    importer = importer_of(raw, 24)
    manifest = write_split(importer, "train", importer.splits()["train"], tmp_path / "train", quiet=True)
    assert manifest.samples == 10
    assert manifest.notes["images without a disc on black, kept whole"] == 1
    components = encoded(importer_of(raw), "train", "IDRiD_04")
    assert json.loads(components["json"])["crop"] == [0, -18, 96, 78]
    assert masks_of(components)["microaneurysms"].sum() == lesion(4, 0).sum()


def test_nothing_is_cropped_with_crop_none(raw):
    importer = importer_of(raw, crop="none")
    assert json.loads(encoded(importer, "train", "IDRiD_04")["json"])["crop"] == [0, -18, 96, 78]
    assert not importer.take_notes()["images without a disc on black, kept whole"]


def test_a_missing_file_is_an_empty_mask_and_counted(raw):
    importer = importer_of(raw)
    masks = masks_of(encoded(importer, "train", "IDRiD_03"))
    assert not masks["soft_exudates"].any()
    assert masks["hard_exudates"].any()
    notes = importer.take_notes()
    assert notes["images of train without a file of soft_exudates: its mask is empty"] == 5
    assert notes["images of test without a file of soft_exudates: its mask is empty"] == 2


DRAWN = lesion(4, 0)
COLOURS = np.stack([DRAWN * 255, DRAWN * 0, DRAWN * 0], axis=2)
CORNER = np.pad(np.full((1, 1, 3), 7, np.uint8), ((0, 59), (0, 95), (0, 0)))


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(red(DRAWN), id="palette"),
        pytest.param(Image.fromarray(DRAWN), id="0 and 1"),
        pytest.param(Image.fromarray(DRAWN * 255), id="0 and 255"),
        pytest.param(Image.fromarray(DRAWN == 1), id="1 bit"),
        pytest.param(Image.fromarray(COLOURS), id="red"),
        pytest.param(Image.fromarray(COLOURS).convert("RGBA"), id="red, alpha 255"),
        pytest.param(Image.fromarray(DRAWN * 255).convert("LA"), id="grey, alpha 255"),
        pytest.param(Image.fromarray(np.roll(COLOURS, 2, axis=2)), id="blue"),
    ],
)
def test_files_of_all_modes_give_the_same_mask(raw, mask):
    mask.save(idrid_mask(raw, "train", "IDRiD_04", "MA"))
    stored = masks_of(encoded(importer_of(raw), "train", "IDRiD_04"))["microaneurysms"]
    np.testing.assert_array_equal(stored, in_square(DRAWN))


def test_masks_are_matched_by_name_not_by_order(raw):
    idrid_mask(raw, "train", "IDRiD_03", "MA").unlink()
    importer = importer_of(raw)
    assert not masks_of(encoded(importer, "train", "IDRiD_03"))["microaneurysms"].any()
    stored = masks_of(encoded(importer, "train", "IDRiD_04"))["microaneurysms"]
    np.testing.assert_array_equal(stored, in_square(lesion(4, 0)))


def test_the_optic_disc_is_a_fifth_mask_if_asked_for(raw):
    importer = importer_of(raw, optic_disc="yes")
    assert importer.splits()["train"].mask_names == (*NAMES, "optic_disc")
    assert masks_of(encoded(importer, "train", "IDRiD_04"))["optic_disc"].any()


def test_val_is_drawn_from_train_and_test_stays(raw):
    sources = importer_of(raw, val="0.4").splits()
    keys = {split: {item.key for item in source.items} for split, source in sources.items()}
    assert keys["val"]
    assert keys["train"] | keys["val"] == {f"IDRiD_{number:02}" for number in range(1, 11)}
    assert not keys["train"] & keys["val"]
    assert keys["test"] == {f"IDRiD_{number}" for number in range(55, 59)}


def test_contradictory_copies_and_images_without_a_twin_have_no_grade(raw):
    importer = importer_of(raw)
    labels = {item.key: item.label for source in importer.splits().values() for item in source.items}
    assert (labels["IDRiD_03"], labels["IDRiD_04"], labels["IDRiD_55"]) == (None, None, 4)
    notes = importer.take_notes()
    assert notes["images without a grade: copies differ"] == 1
    assert notes["images without a grade: no twin is known"] == 10


def test_without_the_table_of_twins_no_image_has_a_grade(raw, tmp_path):
    table = write_twins(raw).rename(tmp_path / "twins.csv")
    importer = importer_of(raw)
    assert {item.label for item in importer.splits()["test"].items} == {None}
    assert importer.take_notes()["images without a grade: no twin is known"] == 14
    assert {item.label for item in importer_of(raw, twins=str(table)).splits()["test"].items} == {None, 4}


def empty(raw: Path) -> None:
    for path in (raw / "A. Segmentation").rglob("IDRiD_*"):
        path.unlink()


def other_size(raw: Path) -> None:
    red(lesion(4, 0)[:-1]).save(idrid_mask(raw, "train", "IDRiD_04", "MA"))


def damaged(raw: Path) -> None:
    idrid_mask(raw, "train", "IDRiD_04", "MA").write_bytes(b"no mask")


def sixteen_bits(raw: Path) -> None:
    Image.fromarray(lesion(4, 0).astype(np.uint16)).save(idrid_mask(raw, "train", "IDRiD_04", "MA"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            other_size,
            r"IDRiD_04_MA\.tif: the mask is 59x96, but the image .*_04\.jpg is 60x96: they must be equal",
        ),
        (damaged, r"IDRiD_04_MA\.tif cannot be read"),
        (sixteen_bits, r"IDRiD_04_MA\.tif: mask mode I;16 is not supported: store it as 8-bit grey"),
    ],
)
def test_a_mask_that_cannot_be_used_is_reported_in_one_line(raw, damage, reason):
    damage(raw)
    with pytest.raises(ShardError, match=reason) as caught:
        encoded(importer_of(raw), "train", "IDRiD_04")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda raw: idrid_image(raw, "train", "IDRiD_04").unlink(), r"IDRiD_04_MA\.tif belongs to no image"),
        (lambda raw: red(DRAWN).save(idrid_mask(raw, "test", "IDRiD_55", "MA").with_name("IDRiD_55.tif")), "_MA$"),
        (empty, r"a\. Training Set contains no images"),
        (lambda raw: (raw / "A. Segmentation").rename(raw / "A"), r"folder .*a\. Training Set is missing"),
        (lambda raw: write_twins(raw, ["IDRiD_01,b,,,,,0,"]), "in train, but the table of twins states test"),
        (
            lambda raw: write_twins(raw, ["IDRiD_01,c,,,,,0,"]),
            "line 2: image IDRiD_01 has seg_split 'c': must be",
        ),
        (lambda raw: write_twins(raw, ["IDRiD_01,a,,,,,0,"] * 2), "line 3: image IDRiD_01 has a second row"),
        (lambda raw: write_twins(raw, ["IDRiD_01,a,train,IDRiD_001,5,0,1,"]), "line 2: grade '5' must be an integer"),
        (lambda raw: write_twins(raw, ["IDRiD_01,a,,IDRiD_001,3,0,1,"]), "grading_split '' must be train or test"),
        (
            lambda raw: write_twins(raw, ["IDRiD_01,a,train,IDRiD_001,3,0,1,a duplicate"]),
            "note 'a duplicate': must be 'exact duplicate SPLIT",
        ),
    ],
)
def test_layout_problem_is_reported_in_one_line(raw, damage, reason):
    damage(raw)
    with pytest.raises(ShardError, match=reason) as caught:
        importer_of(raw).splits()
    assert str(caught.value).startswith("idrid: ")
    assert "\n" not in str(caught.value)


@pytest.mark.real
def test_real_counts_and_the_mask_with_alpha(tmp_path):
    beside = Path(__file__).parents[3].parent / "shared" / "data"
    raw = Path(os.environ.get("UML_REAL_DATA", beside)) / "idrid"
    if not raw.is_dir():
        pytest.skip(f"no real data at {raw}: set UML_REAL_DATA")
    importer = Idrid(raw, Options(size=128, settings={"optic_disc": "yes"}))
    sources = importer.splits()
    counts = {
        split: [sum(item.label == label for item in source.items) for label in (*range(5), None)]
        for split, source in sources.items()
    }
    # Of 60 twins, one has copies of different grades.
    assert counts == {"train": [0, 0, 30, 9, 6, 9], "test": [0, 0, 7, 5, 2, 13]}
    assert importer.take_notes()["images of train without a file of soft_exudates: its mask is empty"] == 28
    last = [item for item in sources["test"].items if item.key in ("IDRiD_80", "IDRiD_81")]
    write_split(importer, "test", replace(sources["test"], items=last), tmp_path, quiet=True)
    split = open_split(tmp_path)
    assert "images without a disc on black, kept whole" not in split.manifest.notes
    shares = {sample.key: sample.mask.mean(axis=(1, 2)) for sample in map(split.read, range(2))}
    assert 0 < shares["IDRiD_81"][2] < 0.1  # the alpha of its hard exudates is 255 everywhere
    assert all(0.01 < share[4] < 0.05 for share in shares.values())
