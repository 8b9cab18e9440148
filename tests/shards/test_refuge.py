"""The importer of REFUGE, on made-up trees of both layouts."""

from pathlib import Path

import numpy as np
import openpyxl
import pytest
from PIL import Image

from uml_shards import ShardError
from uml_shards.importers import Options, find_importer
from uml_shards.writer import write_split

Refuge = find_importer("refuge")
SIDE, CENTRE = 60, (20, 36)


def drawn_mask(disc=10, cup=4) -> np.ndarray:
    """A disc around CENTRE, with a cup, as the organisers draw them."""
    rows, columns = np.ogrid[:SIDE, :SIDE]
    distance = np.hypot(rows - CENTRE[0], columns - CENTRE[1])
    return np.where(distance < cup, 0, np.where(distance < disc, 128, 255)).astype(np.uint8)


def save(images: Path, masks: Path, names, mask=None) -> None:
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(np.full((SIDE, SIDE, 3), 40 * number, np.uint8)).save(images / f"{name}.jpg")
        Image.fromarray(drawn_mask() if mask is None else mask).save(masks / f"{name}.bmp")


def official(root: Path) -> Path:
    """Training labels in folder names, those of the validation in a workbook with an alias of its header."""
    truth = root / "Annotation-Training400" / "Annotation-Training400" / "Disc_Cup_Masks"
    save(root / "Training400" / "Glaucoma", truth / "Glaucoma", ["g0001"])
    save(root / "Training400" / "Non-Glaucoma", truth / "Non-Glaucoma", ["n0001", "n0002"])
    truth = root / "REFUGE-Validation400-GT"
    save(root / "REFUGE-Validation400", truth / "Disc_Cup_Masks", ["V0001", "V0002"])
    book = openpyxl.Workbook()
    assert book.active is not None
    for row in (("ID", "ImgName", "Label(Glaucoma=1)"), (1, "V0001.jpg", 1), (2, "V0002.jpg", 0.0), (None, None, None)):
        book.active.append(row)
    book.save(truth / "Glaucoma_label_and_Fovea_location.xlsx")
    return root


def test_the_official_tree_with_labels_of_folders_and_of_a_workbook(tmp_path):
    importer = Refuge(official(tmp_path / "raw"), Options(size=30))
    sources = importer.splits()
    labels = {split: {item.key: item.label for item in source.items} for split, source in sources.items()}
    assert labels == {"train": {"g0001": 1, "n0001": 0, "n0002": 0}, "val": {"V0001": 1, "V0002": 0}}
    manifest = write_split(importer, "train", sources["train"], tmp_path / "train", quiet=True)
    assert manifest.mask_classes == ("background", "rim", "cup")
    assert (manifest.class_counts, manifest.masked, manifest.size) == ((2, 1), 3, (30, 30))


def test_the_renamed_tree_with_a_table_of_text(tmp_path):
    save(tmp_path / "Train/Train400", tmp_path / "Train/Train400-GT/Disc_Cup_Masks", ["a", "b"])
    table = tmp_path / "Train/Train400-GT/labels.csv"
    table.write_text("\ufeffImgName,Glaucoma Label\na.jpg,1\nb.jpg,0\n", encoding="utf-8")
    items = Refuge(tmp_path).splits()["train"].items
    assert [(item.key, item.label) for item in items] == [("a", 1), ("b", 0)]


def encoded_mask(importer, item) -> np.ndarray:
    from uml_shards.decode import decode_mask

    _, components = importer.encode(item)
    return decode_mask(components["mask.png"], 3)


def test_rim_is_1_and_cup_is_2_and_no_other_value_appears(tmp_path):
    raw = official(tmp_path)
    importer = Refuge(raw, Options(size=0))
    mask = encoded_mask(importer, importer.splits()["train"].items[0])
    drawn = drawn_mask()
    assert (mask == np.select([drawn == 0, drawn == 128], [2, 1], 0)).all()
    small = Refuge(raw, Options(size=17))
    assert set(np.unique(encoded_mask(small, small.splits()["train"].items[0]))) == {0, 1, 2}


def test_a_crop_shows_the_disc_larger_and_whole(tmp_path):
    raw = official(tmp_path)
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
            "1 of .*Training400 have no image, first g0001",
        ),
        (lambda raw: next(raw.rglob("n0001.bmp")).unlink(), "have no mask, first n0001"),
        (lambda raw: next(raw.rglob("*.xlsx")).unlink(), "V0001.jpg has no label"),
        (lambda raw: (raw / "Annotation-Training400").rename(raw / "other"), "none of Annotation-Training400"),
        (
            lambda raw: (raw / "Annotation-Training400/x.csv").write_text("ImgName,Glaucoma Label\nn0002,1\n"),
            "n0002.jpg has two labels that disagree",
        ),
        (
            lambda raw: (raw / "Annotation-Training400/x.csv").write_text("ImgName,Glaucoma Label\nn0002,2\n"),
            "row 2: label '2' of n0002 must be 0 or 1",
        ),
        (lambda raw: next(raw.rglob("*.xlsx")).write_bytes(b"no zip"), "xlsx is no workbook"),
    ],
)
def test_a_tree_that_does_not_fit_is_one_line(tmp_path, spoil, message):
    raw = official(tmp_path)
    spoil(raw)
    with pytest.raises(ShardError, match=message) as error:
        Refuge(raw).splits()
    assert "\n" not in str(error.value)


def test_masks_that_were_resized_with_interpolation_are_refused(tmp_path):
    raw = official(tmp_path)
    mask = drawn_mask()
    mask[5, 5] = 191
    save(raw / "Training400/Glaucoma", next(raw.rglob("Disc_Cup_Masks/Glaucoma")), ["g0001"], mask)
    importer = Refuge(raw)
    with pytest.raises(ShardError, match=r"g0001\.bmp: mask value 191"):
        importer.encode(importer.splits()["train"].items[0])


def test_image_and_mask_of_different_size_are_refused(tmp_path):
    raw = official(tmp_path)
    save(raw / "Training400/Glaucoma", next(raw.rglob("Disc_Cup_Masks/Glaucoma")), ["g0001"], drawn_mask()[:-1])
    importer = Refuge(raw)
    with pytest.raises(ShardError, match=r"g0001\.bmp is 59x60, .*g0001\.jpg 60x60"):
        importer.encode(importer.splits()["train"].items[0])
