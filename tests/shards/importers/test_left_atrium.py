"""Tests of the importer of left atria, in both layouts."""

import os
from pathlib import Path

import h5py
import nrrd
import numpy as np
import pytest

from layouts import ATRIA_SHAPE, atrium, write_left_atrium
from uml_shards import ShardError, open_split
from uml_shards.importers import Options, find_importer
from uml_shards.write.writer import write_split

LeftAtrium = find_importer("left_atrium")
SPACE = {"space": "left-posterior-superior", "space directions": np.eye(3) * 0.625, "space origin": np.zeros(3)}
"""Axes of the files run to the left and to the back, so they are flipped on reading."""


def importer(raw, seed: int = 0, **given: str):
    return LeftAtrium(raw, Options(seed=seed, settings=given))


def keys(made) -> dict[str, list[str]]:
    return {split: [item.key for item in source.items] for split, source in made.splits().items()}


def written(made, folder, split: str = "train"):
    write_split(made, split, made.splits()[split], folder / split, quiet=True)
    found = open_split(folder / split)
    return {sample.key: sample for sample in map(found.read, range(len(found)))}, found.manifest


def write_challenge(raw: Path, names=("A", "B", "C", "D", "E"), space=SPACE) -> Path:
    """Write the challenge's NRRD files; the last case has no label."""
    for number, name in enumerate(names):
        image, cavity = atrium(number)
        (raw / "Training Set" / name).mkdir(parents=True)
        nrrd.write(str(raw / "Training Set" / name / "lgemri.nrrd"), image, space)
        if name != names[-1]:
            nrrd.write(str(raw / "Training Set" / name / "laendo.nrrd"), cavity * np.uint8(255), space)
            nrrd.write(str(raw / "Training Set" / name / "lawall.nrrd"), cavity, space)
    return raw


def test_files_of_uamt_are_stored_as_they_are_in_the_splits_of_the_lists(tmp_path):
    raw = write_left_atrium(tmp_path / "raw")
    (raw / "2018LA_Seg_Training Set" / "A" / "desktop.ini").write_text("")
    made = importer(raw)
    assert keys(made) == {"train": list("ABCDEF"), "test": ["X", "Y"]}
    assert made.take_notes() == {
        f"files not used (.ini), first {raw}/2018LA_Seg_Training Set/A/desktop.ini": 1,
    }
    samples, manifest = written(made, tmp_path)
    image, cavity = atrium(2)
    np.testing.assert_array_equal(samples["C"].image[..., 0], (image / 50 - 1).astype(np.float32))
    np.testing.assert_array_equal(samples["C"].mask, cavity)
    assert samples["C"].meta["spacing"] == [0.625] * 3
    assert manifest.options["voxel_size"] == [0.625] * 3
    assert "lists" not in manifest.options


def test_lists_may_lie_in_the_folder_of_the_cases_or_elsewhere(tmp_path):
    raw = write_left_atrium(tmp_path / "raw")
    inside = raw / "2018LA_Seg_Training Set"
    for name in ("train.list", "test.list"):
        (raw / name).rename(inside / name)
    assert keys(importer(inside))["test"] == ["X", "Y"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.list").write_bytes(b"B\r\nsome/folder/A.h5\r\n\r\n")
    (tmp_path / "mine" / "test.list").write_text("X\n")
    made = importer(inside, lists=str(tmp_path / "mine"))
    assert keys(made) == {"train": ["B", "A"], "test": ["X"]}
    assert made.take_notes()["cases in no list, not used, first C"] == 5


def test_the_last_cases_of_train_become_val(tmp_path):
    raw = write_left_atrium(tmp_path)
    assert keys(importer(raw, val="2")) == {"train": list("ABCD"), "val": ["E", "F"], "test": ["X", "Y"]}
    with pytest.raises(ShardError, match="left_atrium: setting val=6: train has 6 cases: leave at least one"):
        importer(raw, val="6").splits()


def test_ids_without_a_case_are_refused_or_counted(tmp_path):
    raw = write_left_atrium(tmp_path)
    with (raw / "train.list").open("a") as file:
        file.write("G\nH\n")
    with pytest.raises(ShardError, match=r"2 of the 8 ids in .*train\.list are not among the 8 cases in RAW, first G"):
        importer(raw).splits()
    made = importer(raw, absent="skip")
    assert keys(made)["train"] == list("ABCDEF")
    assert made.take_notes() == {"ids of train.list that are not in RAW, first G": 2}


@pytest.mark.parametrize(
    ("spoil", "given", "reason"),
    [
        (lambda raw: (raw / "train.list").unlink(), {}, r"contains no train\.list"),
        (
            lambda raw: (raw / "train.list").write_text("A\nB\nA\n"),
            {},
            r"train\.list, line 3: id A is already in line 1",
        ),
        (lambda raw: (raw / "train.list").write_text("\n"), {}, "contains no ids"),
        (lambda raw: (raw / "train.list").write_text("P\nQ\n"), {"absent": "skip"}, "2 of the 2 ids"),
        (lambda raw: (raw / "test.list").write_text("X\nA\n"), {}, "1 patients are in both train and test, first 'A'"),
        (lambda raw: write_challenge(raw, ("A", "B")), {}, r"contains both mri_norm2\.h5 and lgemri\.nrrd"),
        (lambda raw: write_left_atrium(raw / "copy"), {}, r"mri_norm2\.h5 have the same id: remove one"),
        (lambda raw: None, {"crop": "centre"}, r"setting crop has no effect for mri_norm2\.h5"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, spoil, given, reason):
    raw = write_left_atrium(tmp_path)
    spoil(raw)
    with pytest.raises(ShardError, match=f"^left_atrium: .*{reason}"):
        importer(raw, **given).splits()


def test_a_folder_without_cases_is_refused(tmp_path):
    with pytest.raises(ShardError, match=r"contains neither mri_norm2\.h5 nor lgemri\.nrrd"):
        importer(tmp_path).splits()


def test_volumes_of_the_challenge_are_standardised_as_a_whole(tmp_path):
    made = importer(write_challenge(tmp_path / "raw"))
    assert {split: len(names) for split, names in keys(made).items()} == {"train": 4, "test": 1}
    assert made.take_notes() == {"files lawall.nrrd (wall of the atrium), not used": 4}
    samples, _ = written(made, tmp_path)
    for key, sample in samples.items():
        image, cavity = atrium("ABCDE".index(key))
        values = image[::-1, ::-1].astype(np.float64)
        np.testing.assert_allclose(sample.image[..., 0], (values - values.mean()) / values.std(), atol=1e-5)
        if key == "E":
            assert sample.mask is None
        else:
            np.testing.assert_array_equal(sample.mask, cavity[::-1, ::-1])


def test_drawn_splits_depend_on_the_seed(tmp_path):
    raw = write_challenge(tmp_path, [f"case{number:02d}" for number in range(20)])
    drawn = [keys(importer(raw, seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert [len(drawn[0][split]) for split in ("train", "test")] == [16, 4]


def test_a_crop_about_the_centre_needs_no_label_and_counts_masks_that_it_cuts(tmp_path):
    made = importer(write_challenge(tmp_path / "raw", ("A", "B")), crop="centre")
    items = {item.key: item for source in made.splits().values() for item in source.items}
    _, components = made.encode(items["B"])
    assert "mask.npy" not in components
    write_split(
        made, "all", type(made.splits()["train"])(list(items.values()), mask_classes=("a", "b")), tmp_path / "s"
    )
    samples = {sample.key: sample for sample in map(open_split(tmp_path / "s").read, range(2))}
    assert samples["A"].image.shape[:3] == (30 - 14, 26 - 12, 12)
    _, cavity = atrium(0)
    np.testing.assert_array_equal(samples["A"].mask, cavity[::-1, ::-1][7:23, 6:20])
    # The first voxel that is kept has kept its place.
    assert np.asarray(samples["A"].meta["affine"])[:3, 3] == pytest.approx([(7 - 29) * 0.625, (6 - 25) * 0.625, 0])
    assert open_split(tmp_path / "s").manifest.notes["volumes with voxels of 0.625 x 0.625 x 0.625 mm"] == 2


def test_a_crop_around_the_label_is_written_in_the_manifest(tmp_path, monkeypatch):
    monkeypatch.setattr("uml_shards.importers.left_atrium.SIDE", 8)
    monkeypatch.setattr("uml_shards.importers.left_atrium.MARGIN", (1, 3))
    raw = write_challenge(tmp_path / "raw")
    for name, ids in (("train", "ABC"), ("test", "D")):
        (raw / f"{name}.list").write_text("\n".join(ids))
    made = importer(raw, crop="label")
    samples, manifest = written(made, tmp_path)
    assert manifest.options["crop"] == "label"
    assert manifest.notes["volumes cropped around the label, which gives its position away"] == 3
    for key, sample in samples.items():
        assert sample.mask.sum() == atrium("ABC".index(key))[1].sum()
        assert sample.mask.shape[2] == ATRIA_SHAPE[2]
        for axis, extent in ((0, 9), (1, 7)):
            marked = np.flatnonzero(sample.mask.any(axis=tuple({0, 1, 2} - {axis})))
            for margin in (marked[0], sample.mask.shape[axis] - 1 - marked[-1]):
                assert 1 <= margin <= 2 + (8 - extent) // 2 * (extent < 8)
    (raw / "train.list").write_text("A\nE\n")
    made = importer(raw, crop="label")
    with pytest.raises(ShardError, match="has no label to crop to: use crop=none or crop=centre"):
        written(made, tmp_path / "again")


def test_constant_volumes_and_voxels_that_are_not_finite_are_named(tmp_path):
    raw = write_left_atrium(tmp_path / "raw")
    with h5py.File(raw / "2018LA_Seg_Training Set" / "B" / "mri_norm2.h5", "a") as file:
        file["image"][4, 5, 6] = np.nan
    made = importer(raw)
    reason = r"B/mri_norm2\.h5 contains 1 NaN or infinite values, the first at voxel 4, 5, 6: fix the file"
    with pytest.raises(ShardError, match=reason):
        written(made, tmp_path)
    other = write_challenge(tmp_path / "other", ("A", "B"))
    nrrd.write(str(other / "Training Set" / "A" / "lgemri.nrrd"), np.full(ATRIA_SHAPE, 7, np.uint8), SPACE)
    made = importer(other)
    item = next(item for source in made.splits().values() for item in source.items if item.key == "A")
    with pytest.raises(ShardError, match=r"A/lgemri\.nrrd: all voxels are equal: remove the volume$"):
        made.encode(item)


@pytest.mark.real
def test_the_real_pack_is_imported(tmp_path):
    beside = Path(__file__).parents[3].parent / "shared" / "data"
    found = Path(os.environ.get("UML_REAL_DATA", beside)) / "la2018_h5"
    if not found.is_dir():
        pytest.skip(f"no real data at {found}: set UML_REAL_DATA")
    made = importer(found, val="2")
    assert {split: len(names) for split, names in keys(made).items()} == {"train": 8, "val": 2, "test": 6}
    samples, _ = written(made, tmp_path, "test")
    for key, sample in samples.items():
        with h5py.File(found / "2018LA_Seg_Training Set" / key / "mri_norm2.h5") as file:
            np.testing.assert_array_equal(sample.image[..., 0], file["image"])
            np.testing.assert_array_equal(sample.mask, file["label"])
        assert 0.04 < sample.mask.mean() < 0.14
