"""Tests of the importer `folder`, on a realistically messy folder and through the command line."""

import csv
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
from uml_shards.importers import Options, find_importer
from uml_shards.write.verify import verify

Folder = find_importer("folder")
SCRIPT = Path(__file__).parents[3] / "launchers" / "shards.py"


def draw(number: int, height: int = 20, width: int = 24) -> np.ndarray:
    """Return a different image for each number."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 9 + number, columns * 7, rows + columns + number * 3], axis=2).astype(np.uint8)


def spot(number: int, height: int = 20, width: int = 24) -> np.ndarray:
    """Return a different mask for each number."""
    rows, columns = np.mgrid[:height, :width]
    return ((rows - 5 - number % 7) ** 2 + (columns - 8) ** 2 < 20 + number).astype(np.uint8)


def save(path: Path, image: Image.Image | np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)
    return path


def write_table(raw: Path, *rows: str) -> None:
    raw.mkdir(exist_ok=True)
    (raw / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def small_tree(raw: Path, names=("a", "b", "c"), masks=True) -> Path:
    for number, name in enumerate(names):
        save(raw / "images" / f"{name}.png", draw(number))
        if masks:
            save(raw / "masks" / f"{name}.png", spot(number) * 255)
    return raw


def importer(raw: Path, size: int = 0, seed: int = 0, **given: str):
    return Folder(raw, Options(size=size, seed=seed, settings=given))


def everything_in_train(raw: Path, **given: str):
    made = importer(raw, val="0", test="0", **given)
    return made, made.splits()["train"]


def messy_tree(raw: Path) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Write a messy folder and return image name -> RGB pixels, and the mask or None."""
    images, masks = raw / "images", raw / "masks"
    drawn: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}

    def add(name: str, number: int, image: Image.Image, seen: np.ndarray | None = None, mask: bool = True) -> None:
        save(images / name, image)
        seen = np.asarray(image.convert("RGB")) if seen is None else seen
        drawn[str(Path(name).with_suffix(""))] = (seen, spot(number) if mask else None)

    opaque = Image.fromarray(draw(1))
    opaque.putalpha(255)
    add("plain.png", 0, Image.fromarray(draw(0)))
    save(masks / "plain.png", spot(0) * 255)
    add("alpha of 255.PNG", 1, opaque, draw(1))
    save(masks / "alpha of 255_mask.png", spot(1))
    add("case 7 (copy).png", 2, Image.fromarray(draw(2)[..., 0]))
    save(masks / "case 7 (copy)_segmentation.PNG", Image.fromarray(spot(2).astype(bool)))
    add("visit.2020.01/scan.v1.bmp", 3, Image.fromarray(draw(3)))
    save(masks / "visit.2020.01" / "scan.v1_left lesion.tif", spot(3).astype(np.uint16) * 65535)
    add("Größe.tif", 4, Image.fromarray(draw(4)).quantize(40))
    red = Image.fromarray(spot(4)).convert("P")
    red.putpalette([0, 0, 0, 255, 0, 0])
    save(masks / "Größe.png", red)
    # Two overlapping masks of one image, in different formats.
    add("two.png", 5, Image.fromarray(draw(5)))
    grey = np.repeat(spot(5)[..., None] * np.uint8(255), 3, axis=2)
    upper, lower = grey.copy(), grey.copy()
    upper[14:], lower[:8] = 0, 0
    save(masks / "two_1.png", upper)
    save(masks / "two_2.bmp", lower)
    add("two_1_more.png", 6, Image.fromarray(draw(6)))
    save(masks / "two_1_more_mask.png", spot(6) * 200)
    add("without mask.png", 7, Image.fromarray(draw(7)), mask=False)
    add("turned.png", 8, Image.fromarray(draw(8)))
    exif = Image.Exif()
    exif[0x0112] = 6
    save(images / "turned.png", np.ascontiguousarray(np.rot90(draw(8))), exif=exif)
    save(masks / "turned_a.png", spot(8) * 255)
    for beside in (images / "Thumbs.db", images / ".DS_Store", images / ".hidden" / "x.png", masks / "notes.txt"):
        beside.parent.mkdir(exist_ok=True)
        beside.write_bytes(b"not an image")
    (raw / "labels.csv").write_text(
        "image,age,label,patient\n"
        "plain.png,50,naevus,P1\n"
        "alpha of 255,51,melanoma,P1\n"
        '"case 7 (copy).png",52,naevus,P2\n'
        "visit.2020.01\\scan.v1.bmp,53,melanoma,P3\n"
        "Gro\u0308\u00dfe.tif,54,,P4\n"
        "two.jpg,55,naevus,P5\n"
        "two_1_more,56,naevus,P6\n"
        "without mask,57,,P7\n"
        "turned,58,melanoma,P8\n",
        encoding="utf-8-sig",
    )
    return drawn


def test_messy_folder_is_imported_pixel_for_pixel(tmp_path, capsys):
    raw, out = tmp_path / "raw", tmp_path / "out"
    drawn = messy_tree(raw)
    main = load_script(SCRIPT).main
    words = [
        "--set",
        "val=0.4",
        "test=0",
        "observers=union",
        "--set",
        "keys=names",
        "--size",
        "0",
        "--seed",
        "3",
        "--quiet",
    ]
    assert main(["make", "--dataset", "folder", "--raw", str(raw), "--out", str(out), *words]) == 0, capsys.readouterr()
    assert verify(out, quiet=True) == []
    splits = {split: open_split(out / split) for split in ("train", "val")}
    samples = [(name, split.read(number)) for name, split in splits.items() for number in range(len(split))]
    keys = {
        "plain": "plain",
        "alpha_of_255": "alpha of 255",
        "case_7_copy": "case 7 (copy)",
        "visit_2020_01_scan_v1": "visit.2020.01/scan.v1",
        "Groe": "Größe",
        "two": "two",
        "two_1_more": "two_1_more",
        "without_mask": "without mask",
        "turned": "turned",
    }
    found = {keys[sample.key]: sample for _, sample in samples}
    assert found.keys() == drawn.keys()
    for name, (image, mask) in drawn.items():
        np.testing.assert_array_equal(found[name].image, image, err_msg=name)
        if mask is None:
            assert found[name].mask is None
        else:
            np.testing.assert_array_equal(found[name].mask, mask, err_msg=name)
    assert {name: sample.label for name, sample in found.items()} == {
        "plain": 1,
        "alpha of 255": 0,
        "case 7 (copy)": 1,
        "visit.2020.01/scan.v1": 0,
        "Größe": None,
        "two": 1,
        "two_1_more": 1,
        "without mask": None,
        "turned": 0,
    }
    split_of = {sample.key: split for split, sample in samples}
    assert split_of["plain"] == split_of["alpha_of_255"]


def test_splits_are_those_of_the_table(tmp_path):
    raw = small_tree(tmp_path, ("a", "b", "c", "d"))
    write_table(raw, "image,split,patient", "a,test,P1", "b,train,P2", "c,train,P2", "d,extra,P3")
    sources = importer(raw).splits()
    assert {split: [item.image.stem for item in source.items] for split, source in sources.items()} == {
        "train": ["b", "c"],
        "test": ["a"],
        "extra": ["d"],
    }


@given(seed=st.integers(0, 2**32), folds=st.integers(2, 4))
@settings(max_examples=15, deadline=None)
def test_images_of_a_patient_stay_together(tmp_path_factory, seed, folds):
    raw = tmp_path_factory.getbasetemp() / "patients"
    names = [f"p{number % 120}_{number}" for number in range(240)]
    if not raw.is_dir():
        for name in names:
            (raw / "images").mkdir(parents=True, exist_ok=True)
            (raw / "images" / f"{name}.png").write_bytes(name.encode())
        write_table(raw, "image,patient", *(f"{name},{name.partition('_')[0]}" for name in names))
    sources = importer(raw, seed=seed, test="0.3", folds=str(folds), fold="1").splits()
    members = {split: {item.image.stem.partition("_")[0] for item in source.items} for split, source in sources.items()}
    assert sum(map(len, members.values())) == 120
    assert sum(len(source.items) for source in sources.values()) == 240


def test_folder_without_masks_and_table_gives_unlabelled_images(tmp_path):
    _, source = everything_in_train(small_tree(tmp_path, masks=False))
    assert (source.classes, source.mask_classes, dict(source.tasks)) == ((), (), {})
    assert [item.label for item in source.items] == [None] * 3


@pytest.mark.parametrize(
    ("labels", "classes", "tasks"),
    [
        ("no yes no", ("no", "yes"), {"yes": (1,)}),
        ("10 2 1", ("1", "2", "10"), {"1": (0,), "2": (1,), "10": (2,)}),
    ],
)
def test_classes_are_the_sorted_labels(tmp_path, labels, classes, tasks):
    raw = small_tree(tmp_path)
    write_table(raw, "image,label", *(f"{name},{label}" for name, label in zip("abc", labels.split(), strict=True)))
    _, source = everything_in_train(raw)
    assert (source.classes, dict(source.tasks)) == (classes, tasks)
    assert [source.classes[item.label] for item in source.items] == labels.split()


def test_masks_of_class_numbers(tmp_path):
    raw = small_tree(tmp_path, ("a",), masks=False)
    numbers = spot(0) + spot(3)
    numbers[0, 0] = 255
    save(raw / "masks" / "a_classes.png", numbers)
    made, source = everything_in_train(raw, mask_values="classes", mask_classes="background, rim, cup")
    _, components = made.encode(source.items[0])
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(components["mask.png"]))), numbers)
    made, source = everything_in_train(raw, mask_values="classes")
    with pytest.raises(
        ShardError, match=r"a_classes\.png: mask value 2 is not a class: there are 2 classes, and 255 = ignore"
    ):
        made.encode(source.items[0])


def test_image_and_mask_are_resized_alike(tmp_path):
    raw = small_tree(tmp_path, ("a",))
    _, source = everything_in_train(raw)
    made = Folder(raw, Options(size=10, lossless=True))
    _, components = made.encode(source.items[0])
    for name, data in components.items():
        (tmp_path / name).write_bytes(data)
    with Image.open(tmp_path / "png") as image, Image.open(tmp_path / "mask.png") as mask:
        assert image.size == mask.size == (10, 10)
        # The pixel under the centre of each new one.
        expected = spot(0)[1::2][:, ((2 * np.arange(10) + 1) * 24) // 20]
        np.testing.assert_array_equal(np.asarray(mask), expected)


def test_keys_reveal_no_names_and_depend_on_the_salt(tmp_path):
    raw = small_tree(tmp_path, ("Jane Doe", "sub/John"))
    first = [item.key for item in everything_in_train(raw, salt="secret")[1].items]
    other = [item.key for item in everything_in_train(raw)[1].items]
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in first + other)
    assert len({*first, *other}) == 4
    assert first == [item.key for item in everything_in_train(raw, salt="secret")[1].items]


def test_manifest_contains_the_settings_but_not_the_salt(tmp_path):
    made = importer(small_tree(tmp_path), seed=4, salt="a secret", classes="x,y", val="0.25")
    stated = json.dumps(made.manifest_options)
    assert "secret" not in stated + repr(made.options)
    assert json.loads(stated) == {
        "size": 0,
        "seed": 4,
        "lossless": False,
        "classes": ["x", "y"],
        "mask_classes": ["background", "lesion"],
        "labels": "",
        "mask_names": [],
        "mask_values": "binary",
        "mask_threshold": None,
        "mask_cover": None,
        "observers": "",
        "exif": "upright",
        "duplicates": "error",
        "channels": "rgb",
        "val": 0.25,
        "test": 0.15,
        "folds": 0,
        "fold": 0,
        "keys": "hashed",
    }


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"clases": "x"}, r"folder: unknown setting 'clases': did you mean classes\?"),
        ({"val": "much"}, r"folder: setting val='much': Input should be a valid number"),
        (
            {"mask_values": "binry"},
            r"folder: setting mask_values='binry': Input should be 'binary', 'nonzero' or 'classes'",
        ),
        ({"classes": "a,b,a"}, "folder: settings: a,b,a contains a class twice"),
        ({"mask_classes": "a"}, "mask_classes=a: name background and at least one class"),
        ({"mask_cover": "0"}, "setting mask_cover='0': Input should be greater than 0"),
        ({"mask_values": "classes", "mask_threshold": "0.5"}, "mask_threshold has no effect with mask_values=classes"),
        ({"folds": "3", "val": "0.2"}, "val has no effect with folds"),
    ],
)
def test_invalid_settings_are_reported_in_one_line(tmp_path, words, reason):
    with pytest.raises(ShardError, match=reason) as caught:
        importer(tmp_path, **words)
    assert "\n" not in str(caught.value)


def test_setting_is_refused_by_an_importer_without_settings():
    with pytest.raises(ShardError, match="phantom: unknown setting 'val': this importer has none"):
        find_importer("phantom")(None, Options(settings={"val": "0.1"}))


def test_settings_are_listed_and_a_setting_without_value_is_refused(capsys):
    main = load_script(SCRIPT).main
    assert main(["datasets"]) == 0
    assert "--set mask_classes=background,lesion" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["make", "--dataset", "folder", "--set", "val"])
    assert caught.value.code == 2
    assert "'val' is not KEY=VALUE" in capsys.readouterr().err


def rows(*lines: str):
    return lambda raw: write_table(raw, *lines)


def file(name: str):
    def add(raw: Path) -> None:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(b"")

    return add


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (file("masks/d.png"), r"1 masks in .*masks belong to no image, first .*d\.png"),
        (file("masks/ab_mask.png"), r"1 masks in .* belong to no image"),
        (file("images/a.JPG"), r"1 names in .*images belong to two images, first .*a\.JPG and a\.png"),
        (file("images/scan.nii.gz"), r"scan\.nii\.gz is a volume: export its slices"),
        (file("images/x.webp"), r"1 files in .* cannot be read: .*x\.webp is neither DICOM nor one of \.png"),
        (rows("image,label", "a,x", "z,x", "y,x"), r"2 rows of .*labels\.csv refer to no image in .*images, first 'z'"),
        (rows("image,label", "a,x", "a.png,x"), r"row 3: image 'a\.png' has a second row"),
        (rows("image,label", "a"), "row 2 has more or fewer cells"),
        (rows("image,label", "a,x,y"), "row 2 has more or fewer cells"),
        (rows("image,label", ",x"), "row 2 has no image name"),
        (rows("image,label", "a,nan"), "row 2: label 'nan': leave the cell empty"),
        (rows("image,label"), "has no rows"),
        (rows("image;label", "a;x"), r"needs the column image, and label, patient or split: it has image;label"),
        (rows("image,age", "a,5"), "needs the column image, and label"),
        (rows("image,label,patient_id", "a,x,P"), r"has a column 'patient_id': did you mean patient\?"),
        (rows("image,Label", "a,x"), r"has a column 'Label': did you mean label\?"),
        (rows("image,patient", "a,P", "b,P", "c,"), r"1 images have no patient in .*labels\.csv, first .*c\.png"),
        (rows("image,split", "a,train"), r"2 images have no split in .*, first .*b\.png"),
        (rows("image,split", "a,../x", "b,val", "c,val"), r"has the split '\.\./x': use train, val, test"),
        (
            rows("image,split,patient", "a,train,P", "b,val,P", "c,val,Q"),
            "1 patients are in both train and val, first 'P'",
        ),
    ],
)
def test_inconsistent_folder_is_reported_in_one_line(tmp_path, spoil, reason):
    raw = small_tree(tmp_path)
    importer(raw, val="0", test="0").splits()
    spoil(raw)
    with pytest.raises(ShardError, match=reason) as caught:
        importer(raw).splits()
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("folder: ")


def test_label_outside_the_classes_is_refused(tmp_path):
    raw = small_tree(tmp_path)
    write_table(raw, "image,label", "a,x", "b,why")
    with pytest.raises(ShardError, match="image 'b' has the label 'why': must be one of x, y"):
        importer(raw, classes="x,y", val="0", test="0").splits()


def test_fraction_together_with_a_split_column_is_refused(tmp_path):
    raw = small_tree(tmp_path)
    write_table(raw, "image,split", "a,train", "b,val", "c,val")
    with pytest.raises(ShardError, match="setting test has no effect if the table states this split"):
        importer(raw, test="0.5").splits()


def test_several_masks_of_class_numbers_are_refused(tmp_path):
    raw = small_tree(tmp_path)
    save(raw / "masks" / "a_second.png", spot(1))
    with pytest.raises(
        ShardError, match=r"image a has several masks, a\.png and a_second\.png: masks of class numbers"
    ):
        everything_in_train(raw, mask_values="classes")


@pytest.mark.parametrize(
    ("names", "reason"),
    [(("a b", "a(b"), "'a b' and 'a\\(b'|'a\\(b' and 'a b'"), (("图",), "contains no letters or digits")],
)
def test_names_without_a_unique_key_are_refused(tmp_path, names, reason):
    with pytest.raises(ShardError, match=reason):
        everything_in_train(small_tree(tmp_path, names), keys="names")
    assert len(everything_in_train(tmp_path)[1].items) == len(names)


def test_size_mismatch_error_names_image_and_mask(tmp_path):
    raw = small_tree(tmp_path, ("a",))
    save(raw / "masks" / "a.png", spot(0, 10, 12))
    made, source = everything_in_train(raw)
    with pytest.raises(ShardError, match=r"masks/a\.png: the mask is 10x12, but the image .*images/a\.png is 20x24"):
        made.encode(source.items[0])


def test_damaged_file_whose_bytes_would_be_kept_is_named(tmp_path):
    raw = small_tree(tmp_path, ("a",), masks=False)
    whole = (raw / "images" / "a.png").read_bytes()
    (raw / "images" / "a.png").write_bytes(whole[: len(whole) // 2])
    made, source = everything_in_train(raw)
    with pytest.raises(ShardError, match=r"images/a\.png cannot be read"):
        made.encode(source.items[0])


def test_grey_images_of_any_depth_in_one_split(tmp_path):
    save(tmp_path / "images" / "8.png", draw(0)[..., 0])
    save(tmp_path / "images" / "16.png", draw(0)[..., 0].astype(np.uint16) * 200)
    made, source = everything_in_train(tmp_path, channels="grey")
    for item in source.items:
        _, components = made.encode(item)
        assert components["png"] == item.image.read_bytes()


def test_empty_or_missing_folder_is_refused(tmp_path):
    with pytest.raises(ShardError, match=r"images is missing"):
        importer(tmp_path).splits()
    (tmp_path / "images").mkdir()
    with pytest.raises(ShardError, match=r"images contains no images \(\.png, "):
        importer(tmp_path).splits()


def test_quoted_names_in_the_table_are_read(tmp_path):
    names = ['comma, quote" (1)', "b"]
    raw = small_tree(tmp_path, names)
    with (raw / "labels.csv").open("w", newline="") as table:
        csv.writer(table).writerows([["image", "label"], [names[0], "x"], [names[1], "y"]])
    _, source = everything_in_train(raw)
    assert sorted(source.classes[item.label] for item in source.items) == ["x", "y"]
