"""Tests that the importer `folder` uses every file, notes that it does not, or refuses it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from uml_shards import ShardError
from uml_shards.importers import Options, find_importer
from uml_shards.importers.folder_tree import find_images, find_masks
from volume_writers import anatomy, save_series

Folder = find_importer("folder")


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)
    return path


def tree(raw: Path, count: int = 3) -> Path:
    for number in range(count):
        picture(raw / "images" / f"p{number}.png", number)
    return raw


def everything(raw: Path, **settings: str):
    made = Folder(raw, Options(settings={"val": "0", "test": "0", **settings}))
    return made, made.splits()["train"].items


def test_images_and_masks_behind_links_are_used(tmp_path):
    disk = tmp_path / "disk"
    for number in range(4):
        picture(disk / "images" / f"s{number}.png", number)
        picture(disk / "masks" / f"s{number}.png", 255)
    raw = tree(tmp_path / "raw")
    (raw / "masks").mkdir()
    for part in ("images", "masks"):
        (raw / part / "P1").symlink_to(disk / part)
    _, items = everything(raw)
    assert len(items) == 7
    assert sum(len(item.masks) for item in items) == 4


def test_a_folder_of_links_alone_holds_images(tmp_path):
    tree(tmp_path / "disk")
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "images").symlink_to(tmp_path / "disk" / "images")
    assert len(everything(raw)[1]) == 3


def test_files_that_are_not_used_are_noted_by_reason(tmp_path):
    raw = tree(tmp_path)
    for name in ("images/.DS_Store", "images/._p0.png", "images/notes.txt", "images/sub/more.txt", "README", "old.zip"):
        (raw / name).parent.mkdir(exist_ok=True)
        (raw / name).write_bytes(b"")
    made, items = everything(raw)
    assert len(items) == 3
    assert dict(made.take_notes()) == {
        f"files not used (hidden), first {raw}/images/.DS_Store": 2,
        f"files not used (.txt), first {raw}/images/notes.txt": 2,
        f"files not used (no extension), first {raw}/README": 1,
        f"files not used (.zip), first {raw}/old.zip": 1,
    }


def test_shards_inside_the_raw_folder_are_no_input(tmp_path):
    raw = tree(tmp_path)
    for name in ("manifest.json", "shard-000000.tar", "shard-000000.index.npy", "skipped.csv"):
        (raw / "out" / "train").mkdir(parents=True, exist_ok=True)
        (raw / "out" / "train" / name).write_bytes(b"")
    (raw / "out" / "keys.csv").write_bytes(b"")
    made, _ = everything(raw)
    assert not made.take_notes()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Masks/p0.png", r"1 files are neither in images nor in masks, first .*Masks/p0\.png: did you mean .*/masks\?"),
        ("mask/p0.png", r"did you mean .*/masks\?"),
        ("image/p9.png", r"did you mean .*/images\?"),
        ("segmentations/p0.nii.gz", "move it into one of them, or out of RAW"),
        ("p0.png", r"first .*/p0\.png: move it into one of them"),
    ],
)
def test_images_in_other_folders_are_refused(tmp_path, name, reason):
    raw = tree(tmp_path)
    (raw / name).parent.mkdir(exist_ok=True)
    (raw / name).write_bytes(b"")
    with pytest.raises(ShardError, match=reason):
        everything(raw)


@pytest.mark.parametrize("name", ["Images", "IMAGES", "image", "imagess"])
def test_a_misspelt_folder_of_images_is_named(tmp_path, name):
    picture(tmp_path / name / "a.png")
    with pytest.raises(ShardError, match=rf"images is missing .*: did you mean .*/{name}\? Rename it"):
        everything(tmp_path)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("benign (1).png", "benign (1)_mask.png"),
        ("benign (1).png", "benign (1)_mask_1.png"),
        ("benign (1).png", "benign (1)_Segmentation.bmp"),
        ("a.jpg", "a_GT.png"),
        ("a.jpg", "a-label.png"),
        ("a.jpg", "a.seg.png"),
        ("a.jpg", "mask_a.png"),
        ("P1/a.jpg", "P1/masks/a.png"),
        ("P1/image/a.jpg", "P1/mask/a.png"),
    ],
)
def test_masks_among_the_images_are_refused(tmp_path, image, mask):
    picture(tmp_path / image)
    picture(tmp_path / mask)
    with pytest.raises(ShardError, match="1 of 2 files in images are named like masks of others, first ") as caught:
        find_images(tmp_path)
    assert f"{tmp_path / mask} beside {Path(image).name}: move them into masks" in str(caught.value)


def test_names_with_a_mask_word_and_no_partner_are_images(tmp_path):
    for name in ("face_mask.png", "label_3.png", "gtx.png", "segovia_1.png"):
        picture(tmp_path / name)
    assert len(find_images(tmp_path)) == 4


@pytest.mark.parametrize("ending", ["", ".IMA", ".dcm", ".0001"])
def test_dicom_files_are_recognised_by_their_content(tmp_path, ending):
    for number in range(2):
        folder = save_series(tmp_path / "images" / f"P{number}", anatomy() + number)
        for path in sorted(folder.iterdir()):
            path.rename(path.with_name(path.stem + ending))
    made, items = everything(tmp_path, keys="names")
    assert [item.key for item in items] == ["P0", "P1"]
    for item in items:
        assert made.encode(item)[1]["npy"]


def test_dicomdir_is_not_an_image(tmp_path):
    folder = save_series(tmp_path / "images" / "P0", anatomy())
    index = bytes(128) + b"DICM" + b"\x02\x00\x02\x00UI\x14\x001.2.840.10008.1.3.10\x00"
    (tmp_path / "images" / "DICOMDIR").write_bytes(index)
    (folder / "DICOMDIR").write_bytes(index)
    made, items = everything(tmp_path)
    assert made.take_notes() == {f"files not used (no extension), first {tmp_path}/images/DICOMDIR": 2}
    assert made.encode(items[0])[1]["npy"]


@given(st.lists(st.text(st.sampled_from("ab1_"), min_size=1, max_size=5), unique=True, min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_mask_belongs_to_the_longest_matching_image_name(tmp_path_factory, names):
    raw = tmp_path_factory.mktemp("names")
    for folder, ending in (("images", ".png"), ("masks", "_mask.png")):
        (raw / folder).mkdir()
        for name in names:
            (raw / folder / f"{name}{ending}").write_bytes(b"")
    images = find_images(raw / "images")
    found = find_masks(raw / "masks", images)
    assert sorted(path.name for paths in found.values() for path in paths) == sorted(
        f"{name}_mask.png" for name in names
    )
    for image, paths in found.items():
        for path in paths:
            fitting = [name for name in names if path.stem == name or path.stem.startswith(f"{name}_")]
            assert image == max(fitting, key=len)
