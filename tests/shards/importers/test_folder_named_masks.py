"""Tests of named masks, which may overlap, in the importer `folder`."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from commands import load_script
from uml_shards import ShardError, open_split
from uml_shards.importers import Options, Source, find_importer

Folder = find_importer("folder")
SCRIPT = Path(__file__).parents[3] / "launchers" / "shards.py"
NAMES = ("red", "dark", "bright")
GIVEN = ",".join(NAMES)


def spot(number: int, side: int = 32) -> np.ndarray:
    """Return a mask that overlaps those of other numbers."""
    rows, columns = np.mgrid[:side, :side]
    return ((rows - 14 - 2 * number) ** 2 + (columns - 16) ** 2 < 60).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def add_image(raw: Path, name: str) -> None:
    grey = sum(name.encode()) % 256  # images must not be copies of one another
    save(raw / "images" / f"{name}.png", np.full((32, 32, 3), grey, np.uint8))


def importer(raw: Path, size: int = 0, **words: str):
    return Folder(
        raw, Options(size=size, settings={"val": "0", "test": "0", "mask_names": GIVEN, "keys": "names", **words})
    )


def stored(raw: Path, **words: str):
    """Return key -> name -> mask of all images, and the notes."""
    made = importer(raw, **words)
    found = {}
    for item in made.splits()["train"].items:
        key, components = made.encode(item)
        masks = {name.split(".")[1]: data for name, data in components.items() if name.startswith("mask.")}
        found[key] = {name: np.asarray(Image.open(BytesIO(data))) for name, data in masks.items()}
    return found, made.take_notes()


LAYOUTS = ("{image}_{name}", "{name}/{image}", "{upper}/{image}", "{image}_{upper}", "{image}_{name}_1")


@settings(max_examples=12, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(LAYOUTS)), min_size=1, max_size=3))
def test_masks_are_matched_by_name_and_image(tmp_path_factory, images):
    raw = tmp_path_factory.mktemp("raw")
    images.append(dict.fromkeys(NAMES, LAYOUTS[0]))  # every name is in train
    for number, masks in enumerate(images):
        add_image(raw, f"im{number}")
        for name, layout in masks.items():
            file = layout.format(image=f"im{number}", name=name, upper=name.upper())
            save(raw / "masks" / f"{file}.png", spot(number + NAMES.index(name)) * 255)
    found, notes = stored(raw)
    for number, masks in enumerate(images):
        expected = {name: spot(number + NAMES.index(name)) * (name in masks) for name in NAMES} if masks else {}
        assert found[f"im{number}"].keys() == expected.keys()
        for name, mask in expected.items():
            np.testing.assert_array_equal(found[f"im{number}"][name], mask, err_msg=f"{name} of {masks}")
    absent = {name: sum(bool(masks) and name not in masks for masks in images) for name in NAMES}
    assert notes == {
        f"masks without a file of {name}, which counts as absent from the image": count
        for name, count in absent.items()
        if count
    }


def test_overlapping_masks_reach_the_samples(tmp_path, capsys):
    raw = tmp_path / "raw"
    for image in ("a", "b", "bare"):
        add_image(raw, image)
    for number, name in enumerate(NAMES):
        save(raw / "masks" / name / "a.png", spot(number))
    save(raw / "masks" / "b_bright.png", spot(5))
    main = load_script(SCRIPT).main
    words = ["--raw", str(raw), "--out", str(tmp_path / "out"), "--size", "16", "--quiet"]
    words += ["--set", "val=0", "test=0", "keys=names", f"mask_names={GIVEN}"]
    assert main(["make", "--dataset", "folder", *words]) == 0
    printed = capsys.readouterr().out
    assert "masks:    red, dark, bright\n" in printed
    assert "train: bright that survive resizing, of 2 (100.0%): 2\n" in printed
    assert "train: masks without a file of dark, which counts as absent from the image: 1\n" in printed
    split = open_split(tmp_path / "out" / "train")
    assert (split.manifest.mask_names, split.manifest.mask_classes, split.manifest.masked) == (NAMES, (), 2)
    masks = {sample.key: sample.mask for sample in map(split.read, range(3))}
    assert masks["bare"] is None
    assert masks["a"].shape == masks["b"].shape == (3, 16, 16)
    assert (masks["a"].sum(axis=0) == 3).any()
    assert masks["b"].any(axis=(1, 2)).tolist() == [False, False, True]


def test_small_lesions_survive_and_mask_cover_is_used(tmp_path):
    dot, half = np.zeros((2, 32, 32), np.uint8)
    dot[9, 9], half[:, :16], half[:, 16] = 1, 1, 1
    add_image(tmp_path, "a")
    for name, mask in zip(NAMES, (dot, half, half), strict=True):
        save(tmp_path / "masks" / f"a_{name}.png", mask)
    for cover, columns in (("", 4), ("0.2", 5)):  # a quarter of the fifth column is covered
        made = importer(tmp_path, size=8, mask_cover=cover)
        components = made.encode(made.splits()["train"].items[0])[1]
        red, dark = (np.asarray(Image.open(BytesIO(components[f"mask.{name}.png"]))) for name in NAMES[:2])
        assert np.argwhere(red).tolist() == [[2, 2]]
        assert dark.sum() == 8 * columns


@pytest.mark.parametrize("marks", [False, True])
def test_a_name_without_a_marked_pixel_in_train_is_refused_before_anything_is_written(tmp_path, capsys, marks):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for image in ("a", "b"):
        add_image(raw, image)
        for number, name in enumerate(NAMES[:2]):
            save(raw / "masks" / f"{image}_{name}.png", spot(number))
        if marks:
            save(raw / "masks" / f"{image}_bright.png", spot(0) * 0)
    words = ["--raw", str(raw), "--out", str(out), "--quiet", "--set", "val=0", "test=0", f"mask_names={GIVEN}"]
    assert load_script(SCRIPT).main(["make", "--dataset", "folder", *words]) == 2
    error = capsys.readouterr().err
    what = "none of the 2 files of bright" if marks else "no file of bright"
    assert f"folder: {what} in {raw}/masks marks a pixel of a training image: remove bright from mask_names" in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_damaged_file_is_reported_with_its_sample(tmp_path):
    add_image(tmp_path, "a")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a_red.png").write_bytes(b"no image")
    made = importer(tmp_path, mask_names="red")
    item = made.splits()["train"].items[0]
    with pytest.raises(ShardError, match=r"a_red\.png"):
        made.encode(item)


def test_a_mask_of_another_size_is_one_line(tmp_path):
    add_image(tmp_path, "a")
    save(tmp_path / "masks" / "a_red.png", spot(0)[:20])
    made = importer(tmp_path, mask_names="red")
    with pytest.raises(
        ShardError, match=r"a_red\.png: the mask is 20x32, but the image .* is 32x32 .* must be equal"
    ) as e:
        made.encode(made.splits()["train"].items[0])
    assert "\n" not in str(e.value)


def test_a_file_of_an_unknown_name_is_refused(tmp_path):
    add_image(tmp_path, "a")
    save(tmp_path / "masks" / "a_disc.png", spot(0))
    for names in (GIVEN, "red"):
        with pytest.raises(
            ShardError, match=rf"a_disc\.png names none of the masks {names.replace(',', ', ')}: .*a_red\.png"
        ):
            importer(tmp_path, mask_names=names).splits()


def test_overlapping_files_of_one_name_are_refused_or_joined(tmp_path):
    add_image(tmp_path, "a")
    for number in (1, 2):
        save(tmp_path / "masks" / f"a_red_{number}.png", spot(number))
    with pytest.raises(ShardError, match="if they are lesions, use observers=union"):
        stored(tmp_path, mask_names="red")
    found, _ = stored(tmp_path, mask_names="red", observers="union")
    np.testing.assert_array_equal(found["a"]["red"], spot(1) | spot(2))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"mask_names": "a,b,a"}, "folder: settings: a,b,a contains a mask twice"),
        ({"mask_names": "a", "mask_classes": "background,a"}, "mask_classes has no effect with mask_names"),
        ({"mask_names": "a", "mask_values": "classes"}, "mask_values=classes has no effect with mask_names"),
    ],
)
def test_settings_that_contradict_named_masks_are_refused(tmp_path, words, reason):
    add_image(tmp_path, "a")
    with pytest.raises(ShardError, match=reason) as caught:
        importer(tmp_path, **words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a/b", "größe", "a.b", "x" * 33])
def test_a_name_that_cannot_be_part_of_a_member_name_is_refused(name):
    with pytest.raises(ShardError, match="must be 1 to 32 letters, digits, _ or -: rename it"):
        Source([], mask_names=(name,))


def test_the_manifest_states_the_names(tmp_path):
    add_image(tmp_path, "a")
    assert json.loads(json.dumps(importer(tmp_path).manifest_options))["mask_names"] == list(NAMES)
    assert importer(tmp_path).splits()["train"].mask_names == NAMES
