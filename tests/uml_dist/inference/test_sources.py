"""Cases that are found in files, folders, patterns and shards."""

import numpy as np
import pytest
from PIL import Image

from uml_dist.errors import UmlError
from uml_dist.inference.sources import find_sources
from uml_shards import open_split
from volume_writers import anatomy, save_nifti, save_series


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(path)
    return path


def titles(found):
    return [(source.kind, source.title) for source in found.sources]


def test_folder_yields_images_volumes_and_series_of_all_subfolders(tmp_path):
    picture(tmp_path / "b.PNG")
    picture(tmp_path / "site 1" / "a.tif")
    save_nifti(tmp_path / "scan.nii.gz", anatomy())
    save_series(tmp_path / "ct" / "series", anatomy())
    for name in (".hidden.png", "notes.txt", "thing.xyz", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    found = find_sources([tmp_path])
    assert titles(found) == [("image", "b"), ("volume", "ct/series"), ("volume", "scan"), ("image", "site 1/a")]
    assert dict(found.unused) == {"hidden": 1, ".txt": 1, ".xyz": 1, ".db": 1}


def test_input_that_is_named_twice_is_predicted_once(tmp_path):
    path = picture(tmp_path / "a.png")
    found = find_sources([path, tmp_path, str(tmp_path / "*.png"), tmp_path / ".." / tmp_path.name / "a.png"])
    assert titles(found) == [("image", "a")]


def test_pattern_and_file_whose_name_looks_like_one(tmp_path):
    picture(tmp_path / "a[1].png")
    picture(tmp_path / "deep" / "b.png")
    assert titles(find_sources([tmp_path / "a[1].png"])) == [("image", "a[1]")]
    assert titles(find_sources([str(tmp_path / "**" / "b*")])) == [("image", "b")]


def test_slice_stands_for_its_series(tmp_path):
    series = save_series(tmp_path / "series", anatomy())
    assert titles(find_sources(sorted(series.iterdir()))) == [("volume", "series")]
    assert titles(find_sources([series])) == [("volume", "series")]


def test_splits_of_a_data_set_and_one_split(partly_known):
    keys = open_split(partly_known / "val").keys()
    assert titles(find_sources([partly_known / "val"])) == [("sample", key) for key in keys]
    both = find_sources([partly_known]).sources
    assert len(both) == 108
    assert {source.title.split("/")[0] for source in both} == {"train", "val"}
    assert len({source.identity for source in both}) == 108


def test_predictions_inside_of_the_input_are_no_input(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "predictions" / "masks" / "a.png")
    assert titles(find_sources([tmp_path], tmp_path / "predictions")) == [("image", "a")]


def test_link_that_leads_nowhere_is_an_input_that_fails_later(tmp_path):
    (tmp_path / "gone.png").symlink_to(tmp_path / "absent.png")
    picture(tmp_path / "here.png")
    assert titles(find_sources([tmp_path])) == [("image", "gone"), ("image", "here")]


def test_folder_that_contains_itself_is_refused(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "again").symlink_to(tmp_path)
    with pytest.raises(UmlError, match="again is a link to a folder that contains it"):
        find_sources([tmp_path])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.png", "input .*absent.png does not exist"),
        ("*.nii", r"no file matches the pattern .*\*.nii"),
        ("empty", "nothing to predict in .*empty: name images"),
    ],
)
def test_input_with_nothing_is_refused(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UmlError, match=message):
        find_sources([tmp_path / name])
