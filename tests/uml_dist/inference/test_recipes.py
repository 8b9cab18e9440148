"""Every recipe predicts files: volumes without a vacuity, and lesions with a grade; `uml` does in the other tests."""

import nibabel
import numpy as np
import pytest
from PIL import Image

from uml_dist import load_run, predict
from uml_shards import open_split
from uml_shards.importers import Options
from uml_shards.importers.phantom3d import Phantom3d
from uml_shards.importers.phantom_fundus import PhantomFundus
from uml_shards.write.writer import write_split
from untrained import write_untrained


def shards_of(kind, folder, size):
    importer = kind(options=Options(size=size, counts={"train": 4, "val": 2, "test": 0}))
    for split, source in importer.splits().items():
        write_split(importer, split, source, folder / split, quiet=True)
    return folder


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ugmcl")
    stream = {"shards": str(shards_of(Phantom3d, folder / "data", 16)), "count": 2}
    (folder / "labelled.txt").write_text("train-000000\ntrain-000001\n")
    stream["labelled_ids"] = str(folder / "labelled.txt")
    tree = {
        "recipe": "ugmcl",
        "streams": {"labelled": {**stream, "part": "labelled"}, "unlabelled": {**stream, "part": "unlabelled"}},
        "data": {"size": [16, 16, 16]},
        "model": {"width": 0.25},
        "train": {"steps": 10},
    }
    return folder, load_run(write_untrained(tree, folder / "weights"), device="cpu")


def test_volumes_of_ugmcl(volumes, tmp_path):
    folder, run = volumes
    split = open_split(folder / "data" / "val")
    sample = split.read(0)
    affine = np.asarray(sample.meta["affine"])
    nibabel.save(nibabel.Nifti1Image(sample.image[..., 0], affine), tmp_path / "scan.nii.gz")
    made = predict(run, [tmp_path / "scan.nii.gz", folder / "data" / "val"], tmp_path / "out")
    assert (len(made.rows), dict(made.failed)) == (3, {})
    file, shard = made.rows[0], made.rows[1]
    assert 0 < file["pixel_entropy"] <= np.log(2)
    assert "pixel_vacuity" not in file  # this method has no evidence
    for column in file.keys() - {"name", "input"}:
        assert file[column] == pytest.approx(shard[column]) if isinstance(file[column], float) else shard[column]
    for kind in ("masks", "entropy", "probabilities/organ", "maps/mask by distance"):
        found = nibabel.load(tmp_path / "out" / kind / "scan.nii.gz")
        assert found.shape == sample.image.shape[:3]
        assert np.array_equal(found.affine, affine)


def test_values_that_are_not_those_of_eight_bits_are_listed(volumes, tmp_path):
    _, run = volumes
    nibabel.save(nibabel.Nifti1Image(np.full((16, 16, 16), -5, np.int16), np.eye(4)), tmp_path / "ct.nii")
    assert "must have integers from 0 to 255" in predict(run, tmp_path / "ct.nii").failed[str(tmp_path / "ct.nii")]


def test_lesions_and_grades_of_collab(tmp_path):
    shards = str(shards_of(PhantomFundus, tmp_path / "data", 48))
    tree = {
        "recipe": "collab",
        "streams": {"pixel": {"shards": shards, "count": 2}, "image": {"shards": shards, "count": 2}},
        "model": {"width": 0.25, "stride": 1, "one_by_one": False},
        "train": {"steps": 10},
    }
    run = load_run(write_untrained(tree, tmp_path / "weights"), device="cpu")
    image = Image.fromarray(open_split(tmp_path / "data" / "val").read(0).image)
    image.resize((50, 40)).save(tmp_path / "eye.png")
    made = predict(run, tmp_path / "eye.png", tmp_path / "out")
    assert not made.failed
    lesions, grades = run.recipe.manifests["pixel"].mask_names, run.recipe.manifests["image"].classes
    row = made.rows[0]
    assert sum(row[f"probability_{grade}"] for grade in grades) == pytest.approx(1, abs=1e-5)
    for lesion in lesions:
        mask = np.asarray(Image.open(tmp_path / "out" / "masks" / lesion / "eye.png"))
        assert mask.shape == (40, 50)
        assert (mask == 255).sum() == row[f"area_px_{lesion}"]
        assert (tmp_path / "out" / "probabilities" / lesion / "eye.png").exists()
    assert (tmp_path / "out" / "entropy" / "eye.png").exists()
