"""Tests of the importer of BraTS 2019, on a synthetic tree."""

import nibabel
import numpy as np
import pytest

from layouts import BRATS_SHAPE, glioma, write_brats2019
from uml_shards import ShardError, open_split
from uml_shards.importers import Options, find_importer
from uml_shards.write.writer import write_split

Brats2019 = find_importer("brats2019")
FOLDER = "MICCAI_BraTS_2019_Data_Training"


def importer(raw, seed: int = 0, **given: str):
    return Brats2019(raw, Options(seed=seed, settings=given))


def keys(made) -> dict[str, list[str]]:
    return {split: [item.key for item in source.items] for split, source in made.splits().items()}


def stored(made, folder, split: str = "train"):
    write_split(made, split, made.splits()[split], folder / split, quiet=True)
    found = open_split(folder / split)
    return {sample.key: sample for sample in map(found.read, range(len(found)))}, found.manifest


def path_of(raw, key: str, part: str):
    return raw / FOLDER / key.split("_")[1] / key / f"{key}_{part}.nii.gz"


def save(path, values) -> None:
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)


def test_flair_is_cropped_to_the_brain_and_standardised_by_it(tmp_path):
    made = importer(write_brats2019(tmp_path / "raw"))
    samples, manifest = stored(made, tmp_path)
    assert manifest.mask_classes == ("background", "whole tumour")
    assert manifest.classes == ("LGG", "HGG")
    for key, sample in samples.items():
        image, mask = glioma(int(key.split("_")[2]))
        # The box includes the last plane of the brain along each axis.
        inside = tuple(slice(3, side - 2) for side in BRATS_SHAPE)
        brain = image[inside].astype(np.float64)
        assert brain.all()
        np.testing.assert_allclose(sample.image[..., 0], (brain - brain.mean()) / brain.std(), atol=1e-5)
        np.testing.assert_array_equal(sample.mask, mask[inside] > 0)
        assert np.asarray(sample.meta["affine"])[:3, 3].tolist() == [3, 3, 3]
        assert sample.label == (1 if "HGG" in key else 0)


def one_with_a_hole(tmp_path, **given: str):
    """Return the stored sample of a case with background inside of the box, and its cropped image."""
    raw = write_brats2019(tmp_path / "raw", high=4, low=0)
    key = "BraTS19_HGG_0_1"
    image, _ = glioma(0)
    image[4, 4, 4], image[5, 5, 5] = 0, 5000
    save(path_of(raw, key, "flair"), image)
    made = importer(raw, **given)
    item = next(item for source in made.splits().values() for item in source.items if item.key == key)
    write_split(
        made, "one", type(made.splits()["train"])([item], ("LGG", "HGG"), ("background", "t")), tmp_path / "one"
    )
    return open_split(tmp_path / "one").read(0).image[..., 0], image[3:-2, 3:-2, 3:-2].astype(np.float64)


def test_background_stays_zero_by_default(tmp_path):
    found, image = one_with_a_hole(tmp_path)
    brain = image[image != 0]
    assert found[1, 1, 1] == 0
    assert found[2, 2, 2] == pytest.approx((5000 - brain.mean()) / brain.std())


def test_background_and_clipping_of_the_release(tmp_path):
    found, image = one_with_a_hole(tmp_path, background="shifted", clip="99.9")
    brain = image[image != 0]
    brain = np.minimum(brain, np.percentile(brain, 99.9))
    assert found[1, 1, 1] == pytest.approx(-brain.mean() / brain.std(), rel=1e-5)
    assert found[2, 2, 2] == pytest.approx((brain.max() - brain.mean()) / brain.std(), rel=1e-5)


def test_the_three_parts_of_the_tumour(tmp_path):
    samples, manifest = stored(importer(write_brats2019(tmp_path / "raw"), target="labels"), tmp_path)
    assert manifest.mask_classes == ("background", "necrotic core", "oedema", "enhancing tumour")
    mask = glioma(0)[1][3:-2, 3:-2, 3:-2]
    for sample in samples.values():
        np.testing.assert_array_equal(sample.mask, np.where(mask == 4, 3, mask))


def test_drawn_splits_have_the_same_shares_of_each_grade(tmp_path):
    raw = write_brats2019(tmp_path, high=40, low=20)
    made = importer(raw)
    drawn = keys(made)
    # 250 : 25 : 60 of 40 and of 20, rounded.
    counts = {
        split: tuple(sum(grade in key for key in ids) for grade in ("HGG", "LGG")) for split, ids in drawn.items()
    }
    assert counts == {"train": (30, 15), "val": (3, 1), "test": (7, 4)}
    assert keys(importer(raw)) == drawn != keys(importer(raw, seed=1))
    assert made.take_notes() == {f"files not used (.csv), first {raw}/{FOLDER}/name_mapping.csv": 1}


def test_given_lists_define_the_splits(tmp_path):
    raw = write_brats2019(tmp_path / "raw", high=4, low=2)
    (tmp_path / "train.txt").write_bytes(b"BraTS19_HGG_2_1\r\ndata/BraTS19_LGG_0_1.h5\r\n")
    (tmp_path / "test.txt").write_text("BraTS19_HGG_0_1\nBraTS19_HGG_9_1\n")
    with pytest.raises(ShardError, match=r"^brats2019: 1 of the 2 ids in .*test\.txt .*first BraTS19_HGG_9_1"):
        importer(raw, lists=str(tmp_path)).splits()
    made = importer(raw, lists=str(tmp_path), absent="skip")
    assert keys(made) == {"train": ["BraTS19_HGG_2_1", "BraTS19_LGG_0_1"], "test": ["BraTS19_HGG_0_1"]}
    assert made.take_notes()["cases in no list, not used, first BraTS19_HGG_1_1"] == 3
    with pytest.raises(ShardError, match=r"contains no train\.txt: name the folder of the lists"):
        importer(raw, lists=str(raw)).splits()


def test_a_case_without_a_mask_is_not_segmented(tmp_path):
    raw = write_brats2019(tmp_path / "raw")
    path_of(raw, "BraTS19_HGG_3_1", "seg").unlink()
    items = [item for source in importer(raw).splits().values() for item in source.items]
    assert [item.key for item in items if item.mask is None] == ["BraTS19_HGG_3_1"]


@pytest.mark.parametrize(
    ("part", "values", "reason"),
    [
        ("seg", np.full(BRATS_SHAPE, 3, np.uint8), r"_seg\.nii\.gz: mask value 3 is not one of 0, 1, 2 and 4"),
        ("seg", np.zeros((3, 4, 5), np.uint8), r"the volume is 3x4x5, but the image"),
        ("flair", np.zeros(BRATS_SHAPE, np.int16), r"_flair\.nii\.gz: all voxels are 0"),
        ("flair", np.full(BRATS_SHAPE, 9, np.int16), r"_flair\.nii\.gz: all voxels are equal"),
        ("flair", np.full(BRATS_SHAPE, np.inf, np.float32), r"NaN or infinite values, the first at voxel 0, 0, 0"),
    ],
)
def test_a_case_that_cannot_be_used_is_named(tmp_path, part, values, reason):
    raw = write_brats2019(tmp_path, high=4, low=0)
    save(path_of(raw, "BraTS19_HGG_1_1", part), values)
    made = importer(raw)
    item = next(item for source in made.splits().values() for item in source.items if item.key == "BraTS19_HGG_1_1")
    with pytest.raises(ShardError, match=reason) as caught:
        made.encode(item)
    assert "\n" not in str(caught.value)


def test_incomplete_trees_are_refused_in_one_line(tmp_path):
    with pytest.raises(ShardError, match=r"brats2019: .* contains no <id>_flair\.nii\.gz"):
        importer(tmp_path).splits()
    raw = write_brats2019(tmp_path)
    with pytest.raises(ShardError, match=r"brats2019: 45 cases have no t1ce, first .*: complete the data"):
        importer(raw, modality="t1ce").splits()
