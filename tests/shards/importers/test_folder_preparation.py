"""Tests of what turning and resizing do to the masks of the importer `folder`."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import load_script
from uml_shards import ShardError, open_split
from uml_shards.importers import Options, find_importer

Folder = find_importer("folder")
SCRIPT = Path(__file__).parents[3] / "launchers" / "shards.py"


def draw(number: int, height: int = 20, width: int = 24) -> np.ndarray:
    """Return a different image for each number."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 3 + number, columns * 3, rows + columns], axis=2).astype(np.uint8)


def spot(height: int = 20, width: int = 24) -> np.ndarray:
    """Return a mask outside of the centre."""
    rows, columns = np.mgrid[:height, :width]
    return ((rows - 7) ** 2 + (columns - 8) ** 2 < 23).astype(np.uint8)


def save(path: Path, image: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


def all_in_train(raw: Path, size: int = 0, **given: str):
    made = Folder(raw, Options(size=size, settings={"val": "0", "test": "0", **given}))
    return made, made.splits()["train"]


@pytest.mark.parametrize("size", [0, 16])
@pytest.mark.parametrize("exif", ["upright", "stored"])
@pytest.mark.parametrize("turn", [3, 6])
def test_masks_fit_the_upright_or_the_stored_pixels(tmp_path, exif, turn, size):
    """A square photograph does not show by its size on which pixels its mask was drawn."""
    orientation = Image.Exif()
    orientation[0x0112] = turn
    mask = spot(24, 24)
    image = np.repeat(mask[..., None] * np.uint8(200), 3, axis=2)
    shown = np.rot90(image, {3: 2, 6: 3}[turn])
    save(tmp_path / "images" / "a.jpg", image, exif=orientation, quality=95)
    save(tmp_path / "masks" / "a.png", (mask if exif == "stored" else shown[..., 0] > 0).astype(np.uint8))
    made, source = all_in_train(tmp_path, size, exif=exif)
    _, components = made.encode(source.items[0])
    stored = np.asarray(Image.open(BytesIO(components["jpg"])))[..., 0] > 100
    drawn = np.asarray(Image.open(BytesIO(components["mask.png"])))
    assert 2 * (stored & (drawn == 1)).sum() > 0.9 * (stored.sum() + drawn.sum())
    assert b"Exif" not in components["jpg"]
    (note,) = made.take_notes()
    assert "EXIF orientation" in note
    assert "exif=stored" in note


def test_a_mask_of_the_stored_size_names_the_setting(tmp_path):
    orientation = Image.Exif()
    orientation[0x0112] = 6
    save(tmp_path / "images" / "a.jpg", draw(0), exif=orientation)
    save(tmp_path / "masks" / "a.png", spot())
    made, source = all_in_train(tmp_path)
    with pytest.raises(
        ShardError, match=r"24x20 \(after its EXIF orientation\).* fits the stored pixels, use exif=stored"
    ):
        made.encode(source.items[0])
    made, source = all_in_train(tmp_path, exif="stored")
    assert made.encode(source.items[0])[1]["mask.png"]


def test_turned_tiff_is_refused_as_stored_pixels(tmp_path):
    save(tmp_path / "images" / "a.tif", draw(0, 20, 20), tiffinfo={274: 6})
    save(tmp_path / "masks" / "a.png", spot(20, 20))
    made, source = all_in_train(tmp_path, exif="stored")
    with pytest.raises(ShardError, match=r"exif=stored is not supported for a turned TIFF: store it upright"):
        made.encode(source.items[0])
    made, source = all_in_train(tmp_path)
    made.encode(source.items[0])
    assert "EXIF" in next(iter(made.take_notes()))


def test_masks_that_lose_their_lesion_are_counted_in_the_summary(tmp_path, capsys):
    raw = tmp_path / "raw"
    for number in range(6):
        mask = np.zeros((64, 64), np.uint8)
        mask[4 * number + 1 : 4 * number + 2, 20:22] = 1
        save(raw / "images" / f"p{number}.png", draw(number, 64, 64))
        save(raw / "masks" / f"p{number}.png", mask)
    main = load_script(SCRIPT).main

    def summary(out: str, *settings: str) -> str:
        words = ["--raw", str(raw), "--out", str(tmp_path / out), "--size", "16", "--quiet", "--set", "val=0", "test=0"]
        assert main(["make", "--dataset", "folder", *words, *settings]) == 0
        return capsys.readouterr().out

    lost = summary("nearest")
    split = open_split(tmp_path / "nearest" / "train")
    empty = sum(not split.read(number).mask.any() for number in range(6))
    assert empty > 0
    assert (
        f"train: masks lost a class when resized (mask_cover=0.1, or a larger size, keeps small lesions): {empty}"
        in lost
    )
    assert f"train: empty masks: {empty}" in lost
    assert "empty" not in summary("cover", "mask_cover=0.1")
    split = open_split(tmp_path / "cover" / "train")
    assert all(split.read(number).mask.any() for number in range(6))
