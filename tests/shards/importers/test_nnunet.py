"""Tests of the importer `nnunet`, on synthetic data sets of v2, v1 and the Medical Segmentation Decathlon."""

import json
from pathlib import Path

import numpy as np
import pytest

from commands import load_script
from uml_shards import ShardError, open_split
from uml_shards.importers import Options, find_importer
from uml_shards.write.verify import verify
from uml_shards.write.writer import write_split
from volume_writers import anatomy, flipped, ras_affine, save_nifti, save_nrrd

NnUnet = find_importer("nnunet")
SCRIPT = Path(__file__).parents[3] / "launchers" / "shards.py"

V2 = {
    "channel_names": {"0": "CT", "1": "PET"},
    "labels": {"background": 0, "organ": 1, "tumour": 2, "ignore": 3},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}


def labels(number: int = 0) -> np.ndarray:
    return ((anatomy() + number) % 4).astype(np.uint8)


def describe(raw: Path, **changes) -> None:
    raw.mkdir(exist_ok=True)
    content = {key: value for key, value in (V2 | changes).items() if value is not None}
    (raw / "dataset.json").write_text(json.dumps(content))


def write_tree(raw: Path, cases=("p1", "p2", "p3"), tests=(), **changes) -> Path:
    """Write cases of two channels, the second in another orientation; the last training case has no labels."""
    describe(raw, **{"numTraining": len(cases), **changes})
    for part, names in (("Tr", cases), ("Ts", tests)):
        for number, name in enumerate(names):
            save_nifti(raw / f"images{part}" / f"{name}_0000.nii.gz", anatomy() + number + 10 * (part == "Ts"))
            save_nifti(raw / f"images{part}" / f"{name}_0001.nii.gz", *flipped(anatomy() * 2, ras_affine(), 1))
            if name != cases[-1]:
                save_nifti(raw / f"labels{part}" / f"{name}.nii.gz", labels(number))
    return raw


def importer(raw: Path, size: int | None = None, seed: int = 0, **given: str):
    return NnUnet(raw, Options(size=size, seed=seed, settings=given))


def all_train(raw: Path, **given: str):
    made = importer(raw, val="0", **given)
    return made, made.splits()["train"]


def encoded(raw: Path, **given: str) -> dict[str, bytes]:
    made, source = all_train(raw, **given)
    return made.encode(source.items[0])[1]


def test_two_channel_data_set_is_imported_voxel_for_voxel(tmp_path, capsys):
    raw, out = write_tree(tmp_path / "raw", tests=("t1",)), tmp_path / "out"
    main = load_script(SCRIPT).main
    words = ["--set", "val=0", "keys=names", "intensity=keep", "--quiet"]
    assert main(["make", "--dataset", "nnunet", "--raw", str(raw), "--out", str(out), *words]) == 0, capsys.readouterr()
    assert verify(out, quiet=True) == []
    train, test = (open_split(out / split) for split in ("train", "test"))
    assert (train.manifest.channels, train.manifest.size, train.manifest.masked) == (2, (7, 6, 5), 2)
    assert train.manifest.mask_classes == ("background", "organ", "tumour")
    samples = {sample.key: sample for sample in [*map(train.read, range(3)), test.read(0)]}
    assert samples.keys() == {"p1", "p2", "p3", "t1"}
    np.testing.assert_array_equal(samples["p2"].image, np.stack([anatomy() + 1, anatomy() * 2], 3))
    np.testing.assert_array_equal(samples["p2"].mask, np.where(labels(1) == 3, 255, labels(1)))
    assert samples["p3"].mask is None
    assert samples["p1"].label is None
    assert samples["p1"].meta["affine"] == ras_affine().tolist()
    np.testing.assert_array_equal(samples["t1"].mask, np.where(labels() == 3, 255, labels()))


def test_channel_names_determine_the_normalisation(tmp_path):
    raw = write_tree(tmp_path / "raw")
    made, source = all_train(raw)
    write_split(made, "train", source, tmp_path / "train", quiet=True)
    split = open_split(tmp_path / "train")
    for sample in map(split.read, range(3)):
        # The CT channel is not normalised, so the offset of each case remains.
        assert (sample.image[..., 0] - sample.image[0, 0, 0, 0] == anatomy() - anatomy()[0, 0, 0]).all()
        inside = sample.image[..., 1][anatomy() != 0]
        assert (inside.mean(), inside.std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, rel=1e-6))
    describe(raw, channel_names={"0": "T1", "1": "noNorm"})
    first = encoded(raw)
    (tmp_path / "npy").write_bytes(first["npy"])
    np.testing.assert_array_equal(np.load(tmp_path / "npy")[..., 1], anatomy() * 2)


def test_the_decathlon_has_all_channels_in_one_file(tmp_path):
    raw = tmp_path / "raw"
    describe(
        raw,
        channel_names=None,
        modality={"0": "FLAIR", "1": "T1w"},
        labels={"0": "background", "1": "edema", "2": "ignore"},
        file_ending=None,
        numTraining=1,
    )
    save_nifti(raw / "imagesTr" / "BRATS_001.nii.gz", np.stack([anatomy(), anatomy() * 3], 3))
    (raw / "imagesTr" / "._BRATS_001.nii.gz").write_bytes(b"what macOS leaves")
    save_nifti(raw / "labelsTr" / "BRATS_001.nii.gz", labels() % 3)
    save_nifti(raw / "imagesTs" / "BRATS_485.nii.gz", np.stack([anatomy(), anatomy() * 4], 3))
    made = importer(raw, val="0", intensity="keep")
    sources = made.splits()
    for split, source in sources.items():
        write_split(made, split, source, tmp_path / split, quiet=True)
    sample = open_split(tmp_path / "train").read(0)
    assert sources["train"].mask_classes == ("background", "edema", "ignore")
    np.testing.assert_array_equal(sample.image[..., 1], anatomy() * 3)
    np.testing.assert_array_equal(sample.mask, labels() % 3)
    assert open_split(tmp_path / "test").read(0).mask is None


def test_nrrd_files_resampled(tmp_path):
    describe(tmp_path, channel_names={"0": "T2"}, file_ending=".nrrd", numTraining=1)
    save_nrrd(tmp_path / "imagesTr" / "a_0000.nrrd", anatomy())
    save_nrrd(tmp_path / "labelsTr" / "a.nrrd", labels())
    made, source = all_train(tmp_path, spacing="1, 1.5, 1")
    write_split(made, "train", source, tmp_path / "train", quiet=True)
    sample = open_split(tmp_path / "train").read(0)
    assert sample.image.shape == (*sample.mask.shape, 1) == (4, 3, 10, 1)


def splits_of(made) -> dict[str, set[str]]:
    return {split: {item.case.images[0].name[:2] for item in source.items} for split, source in made.splits().items()}


def test_cases_are_drawn_unless_splits_final_exists(tmp_path):
    names = [f"{letter}{number}" for letter in "abcd" for number in range(10)]
    raw = write_tree(tmp_path, names)
    drawn = splits_of(importer(raw, seed=1))
    assert drawn.keys() == {"train", "val"}
    assert set.union(*drawn.values()) == set(names)
    folds = [splits_of(importer(raw, seed=1, folds="2", fold=str(fold))) for fold in (0, 1)]
    # The last case has no labels, so it is in train of every fold.
    assert folds[0]["val"] | {names[-1]} == folds[1]["train"]
    (raw / "splits_final.json").write_text(
        json.dumps([{"train": names[:38], "val": ["d8"]}, {"train": names[1:39], "val": names[:1]}])
    )
    # Nor is it in nnU-Net's folds.
    assert splits_of(importer(raw)) == {"train": {*names[:38], "d9"}, "val": {"d8"}}
    assert splits_of(importer(raw, fold="1")) == {"train": set(names[1:]), "val": {"a0"}}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cases_without_labels_are_for_training(tmp_path, seed):
    names = [f"{letter}{number}" for letter in "abcd" for number in range(10)]
    raw = write_tree(tmp_path, names)
    for name in names[8:]:
        (raw / "labelsTr" / f"{name}.nii.gz").unlink(missing_ok=True)
    made = importer(raw, seed=seed, val="0.4", test="0.3")
    drawn = splits_of(made)
    assert drawn["val"] | drawn["test"] <= set(names[:8])
    assert made.take_notes() == {"samples of patients without any label or mask, all in train": 32}
    made = importer(raw, val="0")
    write_split(made, "train", made.splits()["train"], tmp_path / "train", quiet=True)
    split = open_split(tmp_path / "train")
    assert (len(split), split.masked().sum(), len(split.manifest.mask_classes)) == (40, 8, 3)


def test_keys_are_hashed_unless_names_are_requested(tmp_path):
    raw = write_tree(tmp_path)
    assert all(len(item.key) == 16 and int(item.key, 16) >= 0 for item in all_train(raw, salt="x")[1].items)
    assert {item.key for item in all_train(raw, keys="names")[1].items} == {"p1", "p2", "p3"}
    assert "secret" not in json.dumps(importer(raw, salt="secret").manifest_options)


def removed(name: str):
    return lambda raw: (raw / name).unlink()


def added(name: str, data: bytes = b""):
    return lambda raw: (raw / name).write_bytes(data)


def folds(*content):
    return lambda raw: (raw / "splits_final.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (removed("dataset.json"), r"dataset\.json cannot be read: No such file"),
        (added("dataset.json", b"{"), r"dataset\.json cannot be read: Expecting"),
        (added("dataset.json", b"[]"), "must contain a JSON object"),
        (lambda raw: describe(raw, channel_names=None), "needs channel_names"),
        (lambda raw: describe(raw, channel_names={"1": "CT"}), 'needs channel_names .* from "0" on'),
        (lambda raw: describe(raw, labels=None), "needs labels, such as"),
        (lambda raw: describe(raw, labels={"background": 0, "whole": [1, 2]}), r"label 'whole' is a region, \[1, 2\]"),
        (lambda raw: describe(raw, labels={"background": 0, "organ": 2}), "labels must be consecutive .* are 0, 2"),
        (lambda raw: describe(raw, labels={"background": 0, "a": "1"}), "label 'a' is '1': must be an integer"),
        (lambda raw: describe(raw, labels={"background": 0, "a": 1, "ignore": 9}), "label ignore is 9: must be .* 2"),
        (lambda raw: describe(raw, file_ending=".mha"), r"file_ending '\.mha': must be one of \.nii\.gz"),
        (lambda raw: describe(raw, dataset={}), "lists its files in the entry dataset"),
        (lambda raw: describe(raw, numTraining=7), "states 7 training cases, but imagesTr contains 3 and labelsTr 2"),
        (
            lambda raw: describe(raw, channel_names={"0": "CT"}),
            "case p1 of imagesTr has the channels 0000, 0001: needs 0000",
        ),
        (removed("imagesTr/p2_0001.nii.gz"), "case p2 of imagesTr has the channels 0000: needs 0000 to 0001"),
        (added("imagesTr/p4.nii.gz"), r"p4\.nii\.gz has no channel number before its extension"),
        (added("imagesTr/p4_0000.mha"), r"1 files of .*imagesTr do not end in \.nii\.gz, first p4_0000\.mha"),
        (added("labelsTr/p9.nii.gz"), r"1 files of labelsTr have no image, first .*p9\.nii\.gz"),
        (
            lambda raw: (raw / "imagesTr").rename(raw / "images"),
            r"images is not part of the layout: did you mean imagesTr\?",
        ),
        (lambda raw: write_tree(raw, tests=("p1",)), "1 cases are in imagesTr and in imagesTs, first p1"),
        (folds({"train": ["p1", "p2"], "val": ["p9"]}), r"setting val has no effect with .*splits_final\.json"),
        (
            lambda raw: save_nifti(raw / "labelsTr" / "p1.nii.gz", labels() + np.uint8(1)),
            r"p1\.nii\.gz: mask value 4 is not a label in dataset\.json",
        ),
        (lambda raw: save_nifti(raw / "labelsTr" / "p1.nii.gz", labels()[1:]), r"p1\.nii\.gz: the volume is 6x6x5"),
        (
            lambda raw: save_nifti(raw / "imagesTr" / "p1_0001.nii.gz", anatomy(), np.eye(4)),
            r"p1_0001\.nii\.gz: the volume is up to .* mm away from the image .*p1_0000",
        ),
        (
            lambda raw: save_nifti(raw / "imagesTr" / "p1_0001.nii.gz", np.stack([anatomy()] * 2, 3)),
            r"p1_0001\.nii\.gz: contains 2 channels, must contain one",
        ),
        (
            lambda raw: save_nifti(raw / "imagesTr" / "p1_0001.nii.gz", np.full((7, 6, 5), 4, np.int16)),
            r"p1_0000\.nii\.gz: all non-zero voxels are equal",
        ),
    ],
)
def test_invalid_data_set_is_reported_in_one_line(tmp_path, spoil, reason):
    raw = write_tree(tmp_path)
    encoded(raw)
    spoil(raw)
    with pytest.raises(ShardError, match=reason) as caught:
        encoded(raw)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "fold", "reason"),
    [
        ([{"train": ["p1"], "val": ["p2"]}], "1", "setting fold=1: .* has 1 folds: use 0 to 0"),
        ([{"train": ["p1"]}], "0", "fold 0 must have the lists train and val"),
        ([{"train": ["p1", "p2"], "val": ["p2"]}], "0", "1 patients are in both train and val, first 'p2'"),
        ([{"train": ["p1", "p2"], "val": ["p8"]}], "0", "1 cases of .* are not in imagesTr, first 'p8'"),
        ([{"train": ["p1"], "val": []}], "0", "1 cases with labels are in no split of .*, first 'p2'"),
        ({"train": ["p1"], "val": []}, "0", "must contain a JSON list"),
    ],
)
def test_invalid_folds_are_reported_in_one_line(tmp_path, content, fold, reason):
    raw = write_tree(tmp_path)
    (raw / "splits_final.json").write_text(json.dumps(content))
    with pytest.raises(ShardError, match=reason) as caught:
        importer(raw, fold=fold).splits()
    assert str(caught.value).startswith("nnunet: ")


@pytest.mark.parametrize(
    ("size", "words", "reason"),
    [
        (64, {}, "--size 64 has no effect for volumes"),
        (None, {"folds": "3", "val": "0.1"}, "val has no effect with folds"),
        (None, {"spacing": "1"}, "must be 3 positive numbers"),
        (None, {"test": "0.2"}, "setting test has no effect if imagesTs is the test split"),
    ],
)
def test_invalid_settings_are_reported_in_one_line(tmp_path, size, words, reason):
    raw = write_tree(tmp_path, tests=("t1",))
    with pytest.raises(ShardError, match=reason):
        importer(raw, size, **words).splits()


def test_identical_images_of_train_and_test_are_refused_or_dropped(tmp_path):
    raw = write_tree(tmp_path, tests=("t1",))
    (raw / "imagesTs" / "t1_0000.nii.gz").write_bytes((raw / "imagesTr" / "p2_0000.nii.gz").read_bytes())
    with pytest.raises(ShardError, match=r"t1_0000\S+ \(test\) and .*p2_0000\S+ \(train\) are the same"):
        importer(raw, val="0").splits()
    found = importer(raw, val="0", keys="names", duplicates="drop").splits()
    assert {split: [item.key for item in source.items] for split, source in found.items()} == {
        "train": ["p1", "p3"],
        "test": ["t1"],
    }


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("labelsTr", "labelstr"), ("labelsTr", "labelTr"), ("imagesTs", "ImagesTs"), ("labelsTs", "labels_Ts")],
)
def test_misspelt_folders_are_refused(tmp_path, name, wrong):
    raw = write_tree(tmp_path, tests=("t1",))
    (raw / name).rename(raw / wrong)
    with pytest.raises(ShardError, match=f"{wrong} is not part of the layout: did you mean {name}?"):
        importer(raw, val="0").splits()


def test_files_beside_the_layout_are_noted(tmp_path):
    raw = write_tree(tmp_path)
    (raw / "README.md").write_text("")
    made = importer(raw, val="0")
    made.splits()
    assert made.take_notes() == {f"files not used (.md), first {raw}/README.md": 1}
