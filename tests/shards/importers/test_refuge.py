"""Tests of the REFUGE importer, on synthetic data in both layouts."""

import numpy as np
import pytest

from layouts import refuge_mask, save_refuge, write_refuge
from uml_shards import ShardError
from uml_shards.importers import Options, find_importer
from uml_shards.write.writer import write_split

Refuge = find_importer("refuge")


def test_the_official_tree_with_labels_of_folders_and_of_a_workbook(tmp_path):
    importer = Refuge(write_refuge(tmp_path / "raw"), Options(size=30))
    sources = importer.splits()
    labels = {split: {item.key: item.label for item in source.items} for split, source in sources.items()}
    assert labels == {"train": {"g0001": 1, "n0001": 0, "n0002": 0}, "val": {"V0001": 1, "V0002": 0}}
    manifest = write_split(importer, "train", sources["train"], tmp_path / "train", quiet=True)
    assert manifest.mask_classes == ("background", "rim", "cup")
    assert (manifest.class_counts, manifest.masked, manifest.size) == ((2, 1), 3, (30, 30))


def test_the_renamed_tree_with_a_table_of_text(tmp_path):
    save_refuge(tmp_path / "Train/Train400", tmp_path / "Train/Train400-GT/Disc_Cup_Masks", ["a", "b"])
    table = tmp_path / "Train/Train400-GT/labels.csv"
    table.write_text("\ufeffImgName,Glaucoma Label\na.jpg,1\nb.jpg,0\n", encoding="utf-8")
    items = Refuge(tmp_path).splits()["train"].items
    assert [(item.key, item.label) for item in items] == [("a", 1), ("b", 0)]


def encoded_mask(importer, item) -> np.ndarray:
    from uml_shards.format.picture import decode_mask

    _, components = importer.encode(item)
    return decode_mask(components["mask.png"], 3)


def test_rim_is_1_and_cup_is_2_and_no_other_value_appears(tmp_path):
    raw = write_refuge(tmp_path)
    importer = Refuge(raw, Options(size=0))
    mask = encoded_mask(importer, importer.splits()["train"].items[0])
    drawn = refuge_mask()
    assert (mask == np.select([drawn == 0, drawn == 128], [2, 1], 0)).all()
    small = Refuge(raw, Options(size=17))
    assert set(np.unique(encoded_mask(small, small.splits()["train"].items[0]))) == {0, 1, 2}


def test_crop_shows_the_complete_disc_enlarged(tmp_path):
    raw = write_refuge(tmp_path)
    whole, cropped = (Refuge(raw, Options(size=30, settings={"crop": crop})) for crop in ("none", "disc"))
    item = whole.splits()["train"].items[0]
    wide, near = encoded_mask(whole, item), encoded_mask(cropped, item)
    assert (near > 0).mean() > 2 * (wide > 0).mean()
    assert not near[0].any()
    assert not near[:, 0].any()
    assert not near[-1].any()
    assert not near[:, -1].any()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda raw: (raw / "Training400/Glaucoma/g0001.jpg").unlink(),
            "1 samples of .*Training400 have no image, first g0001",
        ),
        (lambda raw: next(raw.rglob("n0001.bmp")).unlink(), "have no mask, first n0001"),
        (lambda raw: next(raw.rglob("*.xlsx")).unlink(), "V0001.jpg has no label"),
        (lambda raw: (raw / "Annotation-Training400").rename(raw / "other"), "none of Annotation-Training400"),
        (
            lambda raw: (raw / "Annotation-Training400/x.csv").write_text("ImgName,Glaucoma Label\nn0002,1\n"),
            "n0002.jpg has contradictory labels",
        ),
        (
            lambda raw: (raw / "Annotation-Training400/x.csv").write_text("ImgName,Glaucoma Label\nn0002,2\n"),
            "row 2: label '2' of n0002 must be 0 or 1",
        ),
        (lambda raw: next(raw.rglob("*.xlsx")).write_bytes(b"no zip"), "xlsx cannot be read: File is not a zip file"),
    ],
)
def test_invalid_raw_data_are_reported_in_one_line(tmp_path, spoil, message):
    raw = write_refuge(tmp_path)
    spoil(raw)
    with pytest.raises(ShardError, match=message) as error:
        Refuge(raw).splits()
    assert "\n" not in str(error.value)


def test_masks_that_were_resized_with_interpolation_are_refused(tmp_path):
    raw = write_refuge(tmp_path)
    mask = refuge_mask()
    mask[5, 5] = 191
    save_refuge(raw / "Training400/Glaucoma", next(raw.rglob("Disc_Cup_Masks/Glaucoma")), ["g0001"], mask)
    importer = Refuge(raw)
    with pytest.raises(ShardError, match=r"g0001\.bmp: mask value 191"):
        importer.encode(importer.splits()["train"].items[0])


def test_image_and_mask_of_different_size_are_refused(tmp_path):
    raw = write_refuge(tmp_path)
    save_refuge(raw / "Training400/Glaucoma", next(raw.rglob("Disc_Cup_Masks/Glaucoma")), ["g0001"], refuge_mask()[:-1])
    importer = Refuge(raw)
    with pytest.raises(ShardError, match=r"g0001\.bmp is 59x60, but .*g0001\.jpg is 60x60"):
        importer.encode(importer.splits()["train"].items[0])
