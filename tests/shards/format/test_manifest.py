"""Tests of the manifest, which refuses unknown fields."""

import json

import pytest

from uml_shards import Manifest, ShardError

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
