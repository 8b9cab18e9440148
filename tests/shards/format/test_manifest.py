"""Tests of the manifest, which refuses unknown fields."""

import json
import os

import pytest

from uml_shards import Manifest, ShardError
from uml_shards.format.manifest import MAX_BYTES

DIGEST = "0" * 64
STATED = {
    "dataset": "d",
    "split": "train",
    "channels": 3,
    "size": [8, 8],
    "components": ["jpg", "json"],
    "labelled": 0,
    "masked": 0,
    "statistics": {"mean": [0.1, 0.2, 0.3], "std": [0.1, 0.1, 0.1]},
    "licence": "none",
    "source": "none",
    "shards": [
        {"name": "a.tar", "bytes": 9, "sha256": DIGEST, "samples": 2, "index": "a.npy", "index_sha256": DIGEST},
        {"name": "b.tar", "bytes": 9, "sha256": DIGEST, "samples": 3, "index": "b.npy", "index_sha256": DIGEST},
    ],
}


def test_saved_manifest_is_loaded_unchanged(tmp_path):
    manifest = Manifest.model_validate_json(json.dumps(STATED))
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_samples_are_summed_over_the_shards():
    assert Manifest.model_validate_json(json.dumps(STATED)).samples == 5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema_version": 1}, "schema_version.*make them again"),
        ({"colour": 1}, "colour"),
        ({"channels": "x"}, "channels"),
        ({"channels": 10**30}, "channels"),
        ({"size": [8, -8]}, "size"),
        ({"size": [8, 8, 8]}, "size has 3 numbers, but the components are of 2D images"),
        ({"size": [1 << 20, 1 << 20]}, "size is larger than any image"),
        ({"components": []}, "components"),
        ({"components": ["jpg", "jpg"]}, "components contains the same name twice"),
        ({"statistics": {"mean": [0.1], "std": [0.1]}}, "statistics.mean has 1 numbers, but there are 3 channels"),
        ({"statistics": {"mean": [0.1] * 3, "std": [0.1] * 2}}, "statistics.std has 2 numbers"),
        ({"statistics": {"mean": [0.1] * 3, "std": [0.1, 0.1, -0.1]}}, r"statistics\.std\.2"),
        ({"shards": STATED["shards"][:1] * 2}, "shards contains the same file twice"),
        ({"labelled": 6}, "labelled is 6, but there are 5 samples"),
        ({"masked": -1}, "masked"),
        ({"classes": ["a"]}, "class_counts has 0 numbers of sum 0, but there are 1 classes and 0 labelled samples"),
        ({"classes": ["a"], "class_counts": [3], "labelled": 2}, "class_counts has 1 numbers of sum 3"),
        ({"tasks": {"b": [0]}}, r"tasks\.b names a label that is not one of 0 classes"),
    ],
)
def test_invalid_field_is_named_in_a_one_line_error(tmp_path, change, named):
    (tmp_path / "manifest.json").write_text(json.dumps({**STATED, **change}))
    with pytest.raises(ShardError, match=named) as caught:
        Manifest.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_folder_error_explains_how_to_make_shards(tmp_path):
    with pytest.raises(ShardError, match="does not exist: make shards first"):
        Manifest.load(tmp_path / "absent")


@pytest.mark.parametrize("field", ["classes", "mask_classes", "mask_names", "components", "tasks", "dataset", "split"])
def test_deceptive_names_are_refused_in_one_line(field):
    name = "\x1b[2Ja\nerror: forged"
    value = {"dataset": name, "split": name, "tasks": {name: [0]}}.get(field, ["b", name])
    with pytest.raises(ShardError, match=rf"m is not a manifest .*: {field}: the name '\\x1b\[2Ja\\nerror"):
        Manifest.parse(json.dumps({**STATED, field: value}).encode(), "m")


@pytest.mark.parametrize("field", ["dataset", "split"])
def test_names_that_become_folders_are_no_paths(field):
    with pytest.raises(ShardError, match=rf"{field}: the name '\.\./x' contains / or"):
        Manifest.parse(json.dumps({**STATED, field: "../x"}).encode(), "m")


@pytest.mark.parametrize("field", ["licence", "source"])
def test_licence_and_source_are_printable(field):
    with pytest.raises(ShardError, match=rf"{field}: the text '\\x1b\[2J' contains"):
        Manifest.parse(json.dumps({**STATED, field: "\x1b[2J"}).encode(), "m")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5000])
@pytest.mark.parametrize("place", ['"mean": [0.1', '"options": {"seed": 0.1'])
def test_numbers_that_are_not_finite_are_refused_everywhere(tmp_path, number, place):
    text = json.dumps({**STATED, "options": {"seed": 0.1}})
    assert place in text
    (tmp_path / "manifest.json").write_text(text.replace(place, place.replace("0.1", number)))
    with pytest.raises(ShardError, match=r"manifest\.json is not a manifest of schema version 2: ") as caught:
        Manifest.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b'"\\ud800"', b"[]"])
def test_bytes_that_are_no_manifest_are_refused_in_one_line(tmp_path, data):
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(ShardError, match="is not a manifest of schema version 2") as caught:
        Manifest.load(tmp_path)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "too large"])
def test_only_a_regular_file_of_moderate_size_is_read(tmp_path, kind):
    path = tmp_path / "manifest.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(MAX_BYTES + 1)
    problem = f"it has more than {MAX_BYTES} bytes" if kind == "too large" else "it is not a regular file"
    with pytest.raises(ShardError, match=rf"manifest\.json cannot be read: {problem}"):
        Manifest.load(tmp_path)
