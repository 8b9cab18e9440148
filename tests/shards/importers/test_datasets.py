"""The registry of importers, and what importing the package costs."""

import pickle
import subprocess
import sys

import pytest

from uml_shards import ShardError
from uml_shards.importers import Options, find_importer, importers


def test_importers_are_found_without_a_list():
    assert set(importers()) >= {"isic2017", "phantom"}


@pytest.mark.parametrize("name", sorted(importers()))
def test_every_importer_says_what_a_user_must_know(name):
    kind = importers()[name]
    assert kind.name == name
    for text in (kind.summary, kind.licence, kind.source, kind.where, kind.tree):
        assert text.strip()
    for line in (kind.summary, kind.licence, kind.source, kind.where):
        assert "\n" not in line


@pytest.mark.parametrize("name", sorted(name for name, kind in importers().items() if kind.needs_raw))
def test_missing_raw_folder_says_where_to_get_the_data(name, tmp_path):
    kind = find_importer(name)
    for raw in (None, tmp_path / "absent"):
        with pytest.raises(ShardError, match=r"raw folder") as caught:
            kind(raw)
        assert kind.where in str(caught.value)


def test_unknown_data_set_names_the_nearest():
    with pytest.raises(ShardError, match=r"did you mean isic2017\?"):
        find_importer("isic2018")


def test_importer_travels_to_other_processes():
    importer = find_importer("phantom")(None, Options(size=16, seed=3))
    assert pickle.loads(pickle.dumps(importer)).encode(("val", 1)) == importer.encode(("val", 1))


def test_reading_shards_imports_neither_torch_nor_the_libraries_of_extras():
    heavy = {"torch", "webdataset", "scipy", "nibabel", "nrrd", "h5py", "pydicom"}
    code = (
        "import sys, uml_shards; from uml_shards.importers import importers; importers(); "
        f"sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
