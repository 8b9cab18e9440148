"""Tests of indexing plain tars, which are then read like our own; ambiguous samples are refused."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from webdataset import ShardWriter, TarWriter

from commands import load_script
from uml_shards import ShardError, open_split
from uml_shards.read.plan import Plan
from uml_shards.read.stream import Stream
from uml_shards.write.plain import index_plain
from uml_shards.write.verify import verify

SCRIPT = Path(__file__).parents[3] / "launchers" / "shards.py"


def encoded(value: int, image_format: str = "PNG", shape: tuple[int, ...] = (6, 5)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full(shape, value, np.uint8)).save(buffer, image_format)
    return buffer.getvalue()


def mask(*values: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.resize(np.array(values, np.uint8), (6, 5))).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, samples: dict[str, dict[str, Any]], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with TarWriter(str(path), encoder=False, **options) as tar:
        for key, components in samples.items():
            tar.write({"__key__": key, **components})
    return path


def index(folder: Path, **options: Any):
    return index_plain(folder, quiet=True, **options)


def test_tars_of_the_webdataset_writer_are_read_with_equal_bytes(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    samples = {
        f"case {n % 3}/{n:04d}": {"jpg": encoded(n, "JPEG", (6, 5, 3)), "cls": str(n % 3).encode(), "txt": b"other"}
        for n in range(17)
    }
    with ShardWriter(f"{folder}/part-%03d.tar", maxcount=5, encoder=False, verbose=0) as writer:
        for key, components in samples.items():
            writer.write({"__key__": key, **components})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    manifest = index(folder)
    split = open_split(folder)
    assert {key: components for key, components in map(split.components, range(len(split)))} == samples
    assert [split.read(number).label for number in range(17)] == [n % 3 for n in range(17)]
    assert manifest.classes == ("0", "1", "2")
    assert manifest.class_counts == (6, 6, 5)
    assert (manifest.dataset, manifest.split, manifest.licence) == ("mine", "mine", "not stated")
    assert verify(folder, quiet=True) == []
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert {path.name for path in folder.iterdir()} - before.keys() == {
        "manifest.json",
        *(f"part-{n:03d}.index.npy" for n in range(4)),
    }


@pytest.mark.parametrize("extension", ["png", "tif", "tiff", "jpeg"])
def test_every_image_format_and_all_label_and_mask_components_are_read(tmp_path, extension):
    image = encoded(7, {"png": "PNG", "jpeg": "JPEG"}.get(extension, "TIFF"))
    samples = {
        "a": {extension: image, "json": json.dumps({"label": 1, "age": 40}).encode(), "mask.png": mask(0, 1)},
        "b": {extension: image, "cls": b"0\n", "seg.png": mask(0, 2, 255)},
        "c": {extension: image, "json": b'{"age": 50}', "cls": b"2"},
        "d": {extension: image},
    }
    write_tar(tmp_path / "train" / "x.tar", samples)
    manifest = index(tmp_path / "train")
    split = open_split(tmp_path / "train")
    read = {split.read(number).key: split.read(number) for number in range(4)}
    assert {key: sample.label for key, sample in read.items()} == {"a": 1, "b": 0, "c": 2, "d": None}
    assert read["a"].meta == {"age": 40}
    assert set(np.unique(read["b"].mask)) == {0, 2, 255}
    assert read["c"].mask is None
    assert (manifest.labelled, manifest.masked) == (3, 2)
    assert manifest.mask_classes == ("0", "1", "2")
    assert verify(tmp_path / "train", quiet=True) == []


def test_indexed_tars_are_streamed_like_others(tmp_path):
    write_tar(tmp_path / "train" / "x.tar", {f"k{n}": {"png": encoded(n), "cls": b"1"} for n in range(8)})
    index(tmp_path / "train")
    split = open_split(tmp_path / "train")
    plan = Plan([8], slots=2, seed=0, stream="train")
    stream = Stream(split, plan, size=(6, 5), statistics=split.manifest.statistics)
    assert {stream.sample(position).key for position in range(8)} == {f"k{n}" for n in range(8)}


NAME = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="./\\"), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.lists(st.lists(NAME, min_size=1, max_size=3).map("/".join), min_size=1, max_size=4, unique=True))
def test_any_printable_key_is_read_back(tmp_path_factory, keys):
    folder = tmp_path_factory.mktemp("keys") / "train"
    write_tar(folder / "x.tar", {key: {"png": encoded(1)} for key in keys})
    index(folder)
    assert list(open_split(folder).keys()) == keys


def test_given_names_are_stored_in_the_manifest(tmp_path):
    sample = {"png": encoded(1), "cls": b"0", "mask.png": mask(0, 1)}
    write_tar(tmp_path / "x.tar", {"a": sample})
    names = {"classes": ("benign", "malignant"), "mask_classes": ("background", "lesion")}
    manifest = index(tmp_path, dataset="mine", split="train", **names)
    assert (manifest.dataset, manifest.split) == ("mine", "train")
    assert (manifest.classes, manifest.mask_classes) == (names["classes"], names["mask_classes"])
    assert manifest.class_counts == (1, 0)


def test_same_tars_give_the_same_manifest(tmp_path):
    for name in ("a", "b"):
        write_tar(tmp_path / name / "x.tar", {"k": {"png": encoded(1), "cls": b"0"}}, mtime=5.5)
        index(tmp_path / name, dataset="d", split="s")
    for name in ("manifest.json", "x.index.npy"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


IMAGE = {"png": encoded(1)}


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        ({"cls": b"1"}, "needs exactly one image"),
        ({**IMAGE, "jpg": b"x"}, "needs exactly one image"),
        ({"png": b"x"}, "png: cannot be read"),
        ({**IMAGE, "cls": b"cat"}, "cls: must be a class number, is b'cat'"),
        ({**IMAGE, "cls": b"-1"}, "cls: must be a class number"),
        ({**IMAGE, "cls": b"3" * 30}, "cls: must be a class number"),
        ({**IMAGE, "cls": b"70000"}, "label 70000 is out of range: 65536 classes"),
        ({**IMAGE, "cls": b"1", "json": b'{"label": 2}'}, "json states label 2, cls states 1"),
        ({**IMAGE, "json": b'{"label": "cat"}'}, "label 'cat' is out of range"),
        ({**IMAGE, "json": b"[1]"}, "json: must be an object"),
        ({**IMAGE, "json": b"["}, "json: "),
        ({**IMAGE, "json": b"[" * 100000}, "json: "),
        ({**IMAGE, "mask.png": mask(1), "seg.png": mask(1)}, "has both mask.png and seg.png"),
        ({**IMAGE, "mask.png": encoded(1, shape=(6, 5, 3))}, "must be an 8-bit grey PNG"),
        ({**IMAGE, "seg.png": encoded(1, shape=(5, 6))}, "seg.png: mask is 5x6, image is 6x5"),
    ],
)
def test_ambiguous_sample_is_reported_in_one_line_and_leaves_no_files(tmp_path, sample, reason):
    write_tar(tmp_path / "a.tar", {"good": IMAGE})
    write_tar(tmp_path / "b.tar", {"odd": sample})
    with pytest.raises(ShardError) as caught:
        index(tmp_path)
    assert reason in str(caught.value)
    assert f"{tmp_path / 'b.tar'}: sample odd" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "b.tar"]


def test_masks_of_zero_and_255_are_refused_since_255_means_ignore(tmp_path):
    write_tar(tmp_path / "a.tar", {"a": {**IMAGE, "mask.png": mask(0, 255)}})
    with pytest.raises(ShardError, match="255 means ignore: store class numbers"):
        index(tmp_path, mask_classes=("background", "lesion"))


def test_key_in_two_tars_is_refused(tmp_path):
    write_tar(tmp_path / "a.tar", {"k": IMAGE})
    write_tar(tmp_path / "b.tar", {"k": IMAGE})
    with pytest.raises(ShardError, match=r"b\.tar: sample k: duplicate key, also in a\.tar"):
        index(tmp_path)


def test_images_of_different_channels_are_refused(tmp_path):
    write_tar(tmp_path / "a.tar", {"a": IMAGE, "b": {"png": encoded(1, shape=(6, 5, 3))}})
    with pytest.raises(ShardError, match=r"a\.tar: sample b: images with 1 and with 3 channels"):
        index(tmp_path)


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("key", ["k" * 110, "folder/" * 14 + "k" * 10, "Maße"])
def test_names_that_do_not_fit_a_plain_header_are_reported_in_one_line(tmp_path, tar_format, key):
    try:
        with tarfile.open(tmp_path / "a.tar", "w", format=tar_format, encoding="utf-8") as tar:
            header = tarfile.TarInfo(f"{key}.png")
            header.size = len(IMAGE["png"])
            tar.addfile(header, io.BytesIO(IMAGE["png"]))
    except ValueError:
        assert tar_format == tarfile.USTAR_FORMAT  # this format does not support the first name
        return
    if key == "Maße" and tar_format != tarfile.PAX_FORMAT:
        index(tmp_path)
        assert open_split(tmp_path).keys() == (key,)
        return
    with pytest.raises(ShardError, match=r"of at most 100 bytes|PAX header: rename") as caught:
        index(tmp_path)
    assert "\n" not in str(caught.value)


def test_truncated_tar_is_reported_in_one_line(tmp_path):
    path = write_tar(tmp_path / "a.tar", {f"k{n}": IMAGE for n in range(3)})
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ShardError, match=r"a\.tar"):
        index(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_missing_manifest_error_names_the_index_command(tmp_path):
    write_tar(tmp_path / "a.tar", {"k": IMAGE})
    with pytest.raises(
        ShardError, match=r"contains tars but no manifest\.json: .* run `python launchers/shards\.py index"
    ):
        open_split(tmp_path)


def test_folder_without_tars_error_names_subfolders_with_tars(tmp_path):
    write_tar(tmp_path / "train" / "a.tar", {"k": IMAGE})
    with pytest.raises(ShardError, match=r"contains no \*\.tar files: index each of its subfolders: train"):
        index(tmp_path)
    with pytest.raises(ShardError, match="pass a folder of plain tars"):
        index(tmp_path / "absent")


def test_manifest_is_replaced_only_with_overwrite(tmp_path):
    folder = tmp_path / "train"
    write_tar(folder / "a.tar", {"k": IMAGE})
    index(folder)
    with pytest.raises(ShardError, match="already contains a manifest: pass --overwrite"):
        index(folder)
    write_tar(folder / "b.tar", {"l": IMAGE})
    assert index(folder, overwrite=True).samples == 2
    assert verify(folder, quiet=True) == []


def test_index_command_prints_a_summary(tmp_path, capsys):
    main = load_script(SCRIPT).main
    sample = {"png": encoded(1), "cls": b"1", "mask.png": mask(0, 1)}
    write_tar(tmp_path / "train" / "a.tar", {"k": sample})
    words = ["--classes", "benign, malignant", "--mask-classes", "background,lesion", "--quiet", "--dataset", "mine"]
    assert main(["index", str(tmp_path / "train"), *words]) == 0
    printed = capsys.readouterr().out
    assert "benign 0, malignant 1" in printed
    assert "data set: mine" in printed
    assert main(["verify", str(tmp_path / "train"), "--quiet"]) == 0
    assert main(["index", str(tmp_path / "train"), "--quiet"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
