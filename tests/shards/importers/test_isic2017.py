"""Tests of the ISIC 2017 importer, on synthetic data and, if available, on the real data."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layouts import ISIC2017_HEADER, isic2017_table, write_isic2017
from uml_shards import ShardError, open_split
from uml_shards.importers import Options, find_importer
from uml_shards.sources.encode import read_binary_mask
from uml_shards.write.writer import write_split

Isic2017 = find_importer("isic2017")


def test_three_classes_and_the_two_official_tasks(tmp_path):
    importer = Isic2017(write_isic2017(tmp_path / "raw"), Options(size=16))
    sources = importer.splits()
    assert list(sources) == ["train", "val"]
    manifest = write_split(importer, "train", sources["train"], tmp_path / "train", quiet=True)
    assert manifest.classes == ("nevus", "melanoma", "seborrheic_keratosis")
    assert manifest.tasks == {"melanoma": (1,), "seborrheic_keratosis": (2,)}
    assert (manifest.class_counts, manifest.masked, manifest.size) == ((1, 1, 1), 3, (16, 16))
    split = open_split(tmp_path / "train")
    assert {sample.key: sample.label for sample in map(split.read, range(3))} == {"ISIC_1": 0, "ISIC_2": 1, "ISIC_3": 2}


def test_image_of_the_right_size_keeps_its_bytes(tmp_path):
    raw = write_isic2017(tmp_path)
    item = Isic2017(raw, Options(size=16)).splits()["train"].items[0]
    _, components = Isic2017(raw, Options(size=16)).encode(item)
    assert components["jpg"] == item.image.read_bytes()


@pytest.mark.parametrize(("lossless", "extension"), [(False, "jpg"), (True, "png")])
def test_other_images_are_resized(tmp_path, lossless, extension):
    importer = Isic2017(write_isic2017(tmp_path), Options(size=8, lossless=lossless))
    _, components = importer.encode(importer.splits()["train"].items[0])
    assert sorted(components) == sorted(["json", "mask.png", extension])


def test_size_zero_keeps_the_size_of_the_image(tmp_path):
    importer = Isic2017(write_isic2017(tmp_path / "raw"), Options(size=0))
    write_split(importer, "train", importer.splits()["train"], tmp_path / "train", quiet=True)
    assert open_split(tmp_path / "train").manifest.size == (16, 16)


@pytest.mark.parametrize("size", [(16, 16), (7, 40), (96, 13)])
def test_mask_is_the_nearest_pixel_of_the_original(tmp_path, size):
    original = (np.arange(50 * 37).reshape(50, 37) * 7919 % 3 == 0).astype(np.uint8)
    Image.fromarray(original * 255).save(tmp_path / "m.png")
    # The original pixel under the centre of each new one, in exact integers.
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, (50, 37), strict=True))
    expected = original[rows[:, None], columns]
    np.testing.assert_array_equal(read_binary_mask(tmp_path / "m.png", size), expected)


def test_mask_with_other_values_is_refused(tmp_path):
    Image.fromarray(np.array([[0, 254]], np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(ShardError, match="values other than 0 and 255"):
        read_binary_mask(tmp_path / "m.png", (1, 2))


def test_test_split_is_imported_if_its_images_are_present(tmp_path):
    raw = write_isic2017(tmp_path, ("Training", "Validation", "Test_v2"))
    assert list(Isic2017(raw).splits()) == ["train", "val", "test"]


def lose_image(raw: Path) -> None:
    (raw / "ISIC-2017_Training_Data" / "ISIC_2.jpg").unlink()


def lose_masks(raw: Path) -> None:
    for path in (raw / "ISIC-2017_Validation_Part1_GroundTruth").iterdir():
        path.unlink()


def add_image(raw: Path) -> None:
    (raw / "ISIC-2017_Training_Data" / "ISIC_9.jpg").write_bytes(b"")


def lose_table(raw: Path) -> None:
    isic2017_table(raw).unlink()


def append(text: str):
    return lambda raw: isic2017_table(raw).write_text(isic2017_table(raw).read_text() + text)


def rewrite(text: str):
    return lambda raw: isic2017_table(raw).write_text(text)


def lose_folder(raw: Path) -> None:
    (raw / "ISIC-2017_Validation_Data").rename(raw / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lose_image, "1 rows of ISIC-2017_Training_Part3_GroundTruth.csv have no image .* first ISIC_2"),
        (lose_masks, "3 rows of ISIC-2017_Validation_Part3_GroundTruth.csv have no mask"),
        (add_image, "1 images in .* are not in .* first ISIC_9"),
        (lose_table, "cannot be read: No such file"),
        (lose_folder, "folder .*ISIC-2017_Validation_Data is missing"),
        (append("ISIC_4,1.0,1.0\n"), "line 5: ISIC_4: labels"),
        (append("ISIC_4,maybe,0\n"), "line 5: ISIC_4: labels"),
        (append("ISIC_4\n"), "line 5: ISIC_4: labels"),
        (append("ISIC_1,0,0\n"), "line 5: ISIC_1: the image has a second row"),
        (rewrite("id,melanoma\n"), "needs the columns"),
        (rewrite(ISIC2017_HEADER), "has no rows"),
    ],
)
def test_layout_problem_is_reported_in_one_line(tmp_path, damage, reason):
    raw = write_isic2017(tmp_path)
    damage(raw)
    with pytest.raises(ShardError, match=reason) as caught:
        Isic2017(raw).splits()
    assert "\n" not in str(caught.value)


def test_unreadable_image_leaves_no_split(tmp_path):
    raw = write_isic2017(tmp_path / "raw")
    (raw / "ISIC-2017_Training_Data" / "ISIC_2.jpg").write_bytes(b"no image")
    importer = Isic2017(raw, Options(size=16))
    with pytest.raises(ShardError, match=r"ISIC_2\.jpg cannot be read"):
        write_split(importer, "train", importer.splits()["train"], tmp_path / "train", quiet=True)
    assert not (tmp_path / "train").exists()


@pytest.mark.real
def test_real_counts_are_those_published(tmp_path):
    beside = Path(__file__).parents[3].parent / "shared" / "data"
    raw = Path(os.environ.get("UML_REAL_DATA", beside)) / "isic2017_256"
    if not raw.is_dir():
        pytest.skip(f"no real data at {raw}: set UML_REAL_DATA")
    importer = Isic2017(raw)
    sources = importer.splits()
    counts = {
        split: [sum(item.label == label for item in source.items) for label in range(3)]
        for split, source in sources.items()
    }
    assert counts == {"train": [1372, 374, 254], "val": [78, 30, 42]}
    few = replace(sources["val"], items=sources["val"].items[:6])
    manifest = write_split(importer, "val", few, tmp_path, quiet=True)
    assert (manifest.samples, manifest.masked, manifest.size) == (6, 6, (256, 256))


def test_an_image_of_two_splits_is_kept_and_noted_or_dropped(tmp_path):
    raw = write_isic2017(tmp_path)
    train, val = (Isic2017(raw).splits()[split].items[0] for split in ("train", "val"))
    train.image.write_bytes(val.image.read_bytes())
    importer = Isic2017(raw)
    assert len(importer.splits()["train"].items) == 3
    assert importer.take_notes()["identical images in several splits (duplicates=keep)"] == 1
    items = Isic2017(raw, Options(settings={"duplicates": "drop"})).splits()["train"].items
    assert train.key not in {item.key for item in items}
    with pytest.raises(ShardError, match=r"isic2017: .* are the same image"):
        Isic2017(raw, Options(settings={"duplicates": "error"})).splits()
