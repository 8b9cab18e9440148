"""Tests of the registry of importers and of the imports of the package."""

import pickle
import subprocess
import sys

import pytest

from uml_shards import ShardError
from uml_shards.importers import Options, find_importer, importers


def test_importers_are_found_without_registration():
    assert set(importers()) >= {"isic2017", "phantom"}


@pytest.mark.parametrize("name", sorted(importers()))
def test_every_importer_describes_its_data_set(name):
    kind = importers()[name]
    assert kind.name == name
    for text in (kind.summary, kind.licence, kind.source, kind.where, kind.tree):
        assert text.strip()
    for line in (kind.summary, kind.licence, kind.source, kind.where):
        assert "\n" not in line


@pytest.mark.parametrize("name", sorted(name for name, kind in importers().items() if kind.needs_raw))
def test_missing_raw_folder_error_explains_where_to_get_the_data(name, tmp_path):
    kind = find_importer(name)
    for raw in (None, tmp_path / "absent"):
        with pytest.raises(ShardError, match=r"raw folder") as caught:
            kind(raw)
        assert kind.where in str(caught.value)


def test_unknown_data_set_error_suggests_a_similar_name():
    with pytest.raises(ShardError, match=r"did you mean isic2017\?"):
        find_importer("isic2018")


def test_importer_can_be_pickled():
    importer = find_importer("phantom")(None, Options(size=16, seed=3))
    assert pickle.loads(pickle.dumps(importer)).encode(("val", 1)) == importer.encode(("val", 1))


def test_reading_shards_does_not_import_torch_or_optional_libraries():
    heavy = {"torch", "webdataset", "scipy", "nibabel", "nrrd", "h5py", "pydicom"}
    code = (
        "import sys, uml_shards; from uml_shards.importers import importers; importers(); "
        f"sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
