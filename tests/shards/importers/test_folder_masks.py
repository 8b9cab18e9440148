"""Tests of joining several mask files of an image: by class, by lesion or by observer."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uml_shards import ShardError
from uml_shards.importers import Options, find_importer

Folder = find_importer("folder")
ROWS, COLUMNS = np.mgrid[:32, :32]


def disc(radius: float, column: int = 16) -> np.ndarray:
    return ((ROWS - 16) ** 2 + (COLUMNS - column) ** 2 < radius**2).astype(np.uint8)


def tree(raw: Path, **masks: np.ndarray) -> Path:
    """Write an image `im0` and its masks, by name; `__` stands for a slash."""
    for name, mask in {"images__im0": np.full((32, 32), 90, np.uint8), **masks}.items():
        path = raw / f"{name.replace('__', '/')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    return raw


def encode(raw: Path, **settings: str):
    """Return the stored mask and the notes of the only image."""
    made = Folder(raw, Options(size=0, settings={"val": "0", "test": "0", **settings}))
    components = made.encode(made.splits()["train"].items[0])[1]
    return np.asarray(Image.open(BytesIO(components["mask.png"]))), made.take_notes()


JOINED = "masks joined from one file per class, later classes over earlier ones"
MERGED = "images with several disjoint masks, which were merged"


@pytest.mark.parametrize(
    ("disc_name", "cup_name"),
    [
        ("masks__im0_disc", "masks__im0_cup"),
        ("masks__im0_Disc_1", "masks__im0_CUP"),
        ("masks__disc__im0", "masks__cup__im0"),
        ("masks__disc__im0_drawn", "masks__cup__im0_drawn"),
    ],
)
def test_one_file_per_class(tmp_path, disc_name, cup_name):
    raw = tree(tmp_path, **{disc_name: disc(12) * 255, cup_name: disc(5) * 255})
    mask, notes = encode(raw, mask_classes="background,disc,cup")
    np.testing.assert_array_equal(mask, disc(12) + disc(5))
    assert notes == {JOINED: 1}


def test_a_missing_class_is_noted(tmp_path):
    mask, notes = encode(tree(tmp_path, masks__im0_cup=disc(5)), mask_classes="background,disc,cup")
    np.testing.assert_array_equal(mask, disc(5) * 2)
    assert notes == {JOINED: 1, "masks without the file of a class, which counts as absent from the image": 1}


def test_a_file_of_no_class_is_refused(tmp_path):
    raw = tree(tmp_path, masks__im0_rim=disc(5))
    with pytest.raises(ShardError, match=r"im0_rim\.png names none of the classes disc, cup: .* like im0_disc\.png"):
        encode(raw, mask_classes="background,disc,cup")


def test_several_structures_of_one_class_are_refused(tmp_path):
    raw = tree(tmp_path, masks__im0_disc=disc(12), masks__im0_cup=disc(5))
    with pytest.raises(
        ShardError, match=r"im0_cup\.png and im0_disc\.png: if they show different structures"
    ) as caught:
        encode(raw)
    assert "observers=first, union, majority or consensus" in str(caught.value)


def test_disjoint_lesions_are_merged_and_noted(tmp_path):
    raw = tree(tmp_path, masks__im0_mask=disc(5, 8), masks__im0_mask_1=disc(5, 24) * 255)
    mask, notes = encode(raw)
    np.testing.assert_array_equal(mask, disc(5, 8) | disc(5, 24))
    assert notes == {MERGED: 1}


def test_overlapping_masks_are_refused(tmp_path):
    raw = tree(tmp_path, masks__im0_1=disc(8, 14), masks__im0_2=disc(8, 18))
    with pytest.raises(ShardError, match=r"1 more masks of the image overlap in \d+ pixels: if they are lesions"):
        encode(raw)


@pytest.mark.parametrize("layout", ["masks__im0_{}", "masks__{}__im0"])
@pytest.mark.parametrize(("observers", "votes"), [("first", None), ("union", 1), ("majority", 2), ("consensus", 3)])
def test_drawings_of_observers_are_joined_as_stated(tmp_path, layout, observers, votes):
    drawn = [disc(9, 12), disc(9, 16), disc(9, 20)]
    raw = tree(tmp_path, **{layout.format(name): mask for name, mask in zip("abc", drawn, strict=True)})
    mask, notes = encode(raw, observers=observers)
    np.testing.assert_array_equal(mask, drawn[0] if votes is None else sum(drawn) >= votes)
    assert notes == {f"masks of several observers, joined by observers={observers}": 1}


def test_half_of_the_observers_are_no_majority(tmp_path):
    raw = tree(tmp_path, masks__im0_a=disc(9, 12), masks__im0_b=disc(9, 20))
    mask, _ = encode(raw, observers="majority")
    np.testing.assert_array_equal(mask, disc(9, 12) & disc(9, 20))


def test_soft_map_with_a_threshold(tmp_path):
    soft = sum(disc(radius).astype(np.uint8) * 63 for radius in (4, 7, 10, 13))
    raw = tree(tmp_path, masks__im0_soft=soft)
    with pytest.raises(ShardError, match=r"for a soft map state the threshold, such as mask_threshold=0\.5"):
        encode(raw)
    np.testing.assert_array_equal(encode(raw, mask_threshold="0.4")[0], disc(10))


def test_class_numbers_of_the_first_observer(tmp_path):
    raw = tree(tmp_path, masks__im0_a=disc(9) + disc(4), masks__im0_b=disc(8))
    with pytest.raises(ShardError, match="masks of class numbers cannot be joined"):
        encode(raw, mask_values="classes", mask_classes="background,rim,cup")
    mask, _ = encode(raw, mask_values="classes", mask_classes="background,rim,cup", observers="first")
    np.testing.assert_array_equal(mask, disc(9) + disc(4))


def test_class_numbers_without_a_class_are_noted(tmp_path):
    _, notes = encode(tree(tmp_path, masks__im0=disc(9) * 255), mask_values="classes")
    assert notes == {"masks with only 0 and 255, which means ignore (if 255 is foreground, use mask_values=binary)": 1}
