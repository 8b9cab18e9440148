"""Tests of the importer `folder` for volumes, from raw files to decoded samples."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import load_script
from uml_shards import ShardError, open_split
from uml_shards.format.volume import parse_header
from uml_shards.importers import Options, find_importer
from uml_shards.write.verify import verify
from uml_shards.write.writer import write_split
from volume_writers import (
    ORIGIN,
    PATIENT,
    anatomy,
    change_slices,
    flipped,
    ras_affine,
    save_hdf5,
    save_nifti,
    save_nrrd,
    save_series,
)

Folder = find_importer("folder")
SCRIPT = Path(__file__).parents[3] / "launchers" / "shards.py"


def lesion(number: int = 0) -> np.ndarray:
    """Return a different mask for each number."""
    return (np.abs(anatomy() - 20 * number) < 30).astype(np.uint8)


def mixed_tree(raw: Path) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Write volumes of every format, with masks in other orientations, and return key -> image and mask."""
    images, masks = raw / "images", raw / "masks"
    turned = flipped(*flipped(anatomy(), ras_affine(), 0), 2)
    save_nifti(images / "a scan.v1.nii.gz", *turned)
    save_nrrd(masks / "a scan.v1_lesion.nrrd", lesion() * 255)
    save_nrrd(images / "site 1" / "B.NRRD", anatomy())
    save_nifti(masks / "site 1" / "B_1.nii", lesion(1).astype(np.float32))
    save_nifti(masks / "site 1" / "B_2.nii.gz", *flipped(lesion(3), ras_affine(), 1))
    values = anatomy().astype(np.float32)
    save_hdf5(images / "heart" / "mri.h5", image=values, label=lesion())
    save_series(images / "ct" / "head", anatomy(), offset=1024)
    save_nifti(masks / "ct" / "head.nii", lesion(2))
    save_series(images / "ct" / "neck", anatomy())
    (images / "notes.txt").write_text("seen")
    (images / "._a scan.v1.nii.gz").write_bytes(b"what macOS leaves")
    (raw / "labels.csv").write_text(
        "image,label\na scan.v1.nii.gz,ill\nsite 1/B,well\nheart/mri.h5,ill\nct/head,well\nct\\neck,\n"
    )
    return {
        "a_scan_v1": (anatomy(), lesion()),
        "site_1_B": (anatomy(), lesion(1) | lesion(3)),
        "heart_mri": (values, lesion()),
        "ct_head": (anatomy(), lesion(2)),
        "ct_neck": (anatomy(), None),
    }


def test_volumes_of_every_format_are_imported_voxel_for_voxel(tmp_path, capsys):
    raw, out = tmp_path / "raw", tmp_path / "out"
    made = mixed_tree(raw)
    main = load_script(SCRIPT).main
    words = ["--set", "val=0", "test=0", "keys=names", "observers=union", "--quiet"]
    assert main(["make", "--dataset", "folder", "--raw", str(raw), "--out", str(out), *words]) == 0, capsys.readouterr()
    assert verify(out, quiet=True) == []
    split = open_split(out / "train")
    samples = {sample.key: sample for sample in map(split.read, range(len(split)))}
    assert samples.keys() == made.keys()
    for key, (image, mask) in made.items():
        np.testing.assert_array_equal(samples[key].image[..., 0], image, err_msg=key)
        if mask is None:
            assert samples[key].mask is None
        else:
            np.testing.assert_array_equal(samples[key].mask, mask, err_msg=key)
    labels = {key: sample.label for key, sample in samples.items()}
    assert labels == {"a_scan_v1": 0, "site_1_B": 1, "heart_mri": 0, "ct_head": 1, "ct_neck": None}
    assert samples["ct_head"].meta == {"spacing": [0.5, 0.75, 2.0], "affine": ras_affine().tolist()}
    assert not samples["heart_mri"].meta
    assert (split.manifest.size, split.manifest.channels, split.manifest.masked) == ((7, 6, 5), 1, 4)
    options = split.manifest.options
    assert (options["size"], options["spacing"], options["intensity"]) == (0, [], "keep")
    assert "channels" not in options


def test_shards_contain_no_patient_information(tmp_path):
    save_series(tmp_path / "raw" / "images" / "Doe Jane", anatomy())
    importer = Folder(tmp_path / "raw", Options(settings={"val": "0", "test": "0", "salt": "secret"}))
    write_split(importer, "train", importer.splits()["train"], tmp_path / "train", quiet=True)
    read = open_split(tmp_path / "train").components(0)
    assert json.loads(read[1]["json"]).keys() == {"label", "spacing", "affine"}
    stored = b"".join(path.read_bytes() for path in (tmp_path / "train").iterdir())
    for told in (PATIENT, "Doe", "Jane", "MRN-12345", "19700101"):
        assert told.encode() not in stored


def importer(raw: Path, size: int | None = None, **given: str):
    return Folder(raw, Options(size=size, settings={"val": "0", "test": "0", **given}))


def encoded(made) -> dict[str, bytes]:
    return made.encode(made.splits()["train"].items[0])[1]


def test_settings_are_applied_to_the_volume(tmp_path):
    save_nifti(tmp_path / "images" / "a.nii", anatomy())
    save_nifti(tmp_path / "masks" / "a.nii", lesion())
    made = importer(tmp_path, spacing="1,1.5,2", window="-20,100", intensity="volume")
    source = made.splits()["train"]
    manifest = write_split(made, "train", source, tmp_path / "train", quiet=True)
    sample = open_split(tmp_path / "train").read(0)
    assert manifest.size == sample.mask.shape == (4, 3, 5)
    assert sample.image.dtype == np.float32
    assert sample.meta["spacing"] == pytest.approx([1, 1.5, 2])
    assert np.asarray(sample.meta["affine"])[:3, 3] == pytest.approx([ORIGIN[0], ORIGIN[1] + 0.375, ORIGIN[2]])
    assert manifest.options["spacing"] == [1, 1.5, 2]


def test_a_voxel_size_is_asked_for_where_files_state_none(tmp_path):
    save_hdf5(tmp_path / "images" / "a.h5", image=anatomy(), label=lesion())
    assert json.loads(encoded(importer(tmp_path))["json"]).keys() == {"label"}
    with pytest.raises(ShardError, match=r"a\.h5 does not state its voxel size: give it in mm, such as voxel_size="):
        encoded(importer(tmp_path, spacing="1,1,1"))
    made = importer(tmp_path, voxel_size="0.5,1,2", spacing="1,1,1")
    stored = encoded(made)
    assert json.loads(stored["json"])["spacing"] == pytest.approx([1, 1, 1])
    assert parse_header(stored["npy"], len(stored["npy"]), "npy").shape == (4, 6, 10, 1)
    assert made.manifest_options["voxel_size"] == [0.5, 1, 2]


def test_masks_of_class_numbers(tmp_path):
    numbers = lesion().astype(np.float32) * 2
    numbers[0, 0, 0] = 255
    save_nifti(tmp_path / "images" / "a.nii", anatomy())
    save_nifti(tmp_path / "masks" / "a_rim.nii", numbers)
    made = importer(tmp_path, mask_values="classes", mask_classes="background,rim,core")
    write_split(made, "train", made.splits()["train"], tmp_path / "train", quiet=True)
    np.testing.assert_array_equal(open_split(tmp_path / "train").read(0).mask, numbers)
    with pytest.raises(
        ShardError, match=r"a_rim\.nii: mask value 2\S* is not a class: there are 2 classes, and 255 = ignore"
    ):
        encoded(importer(tmp_path, mask_values="classes"))


@pytest.mark.parametrize(
    ("size", "given", "reason"),
    [
        (96, {}, r"--size 96 has no effect for volumes: use --set spacing=1,1,1, in mm"),
        (None, {"channels": "grey"}, "setting channels has no effect for volumes"),
        (None, {"voxel_size": "1,nan,1"}, "must be 3 positive numbers"),
        (None, {"spacing": "1,1"}, "spacing='1,1': must be 3 positive numbers"),
        (None, {"spacing": "1,0,1"}, "must be 3 positive numbers"),
        (None, {"window": "3,3"}, "window='3,3': must be low,high"),
        (None, {"intensity": "z"}, "intensity='z': Input should be 'keep' or 'volume'"),
    ],
)
def test_settings_without_effect_for_volumes_are_refused(tmp_path, size, given, reason):
    save_nifti(tmp_path / "images" / "a.nii", anatomy())
    with pytest.raises(ShardError, match=reason) as caught:
        importer(tmp_path, size, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["spacing=1,1,1", "voxel_size=1,1,1", "window=0,1", "intensity=volume"])
def test_settings_without_effect_for_2d_images_are_refused(tmp_path, name):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "images" / "a.png")
    key, _, value = name.partition("=")
    with pytest.raises(ShardError, match=f"setting {key} has no effect for 2D images: remove it"):
        importer(tmp_path, **{key: value})


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda raw: picture(raw / "images" / "b.png"),
            "contains 1 2D images and 1 volumes, which one data set cannot",
        ),
        (lambda raw: picture(raw / "masks" / "a.png"), r"a\.png: the masks are 2D images but the images are volumes"),
        (lambda raw: save_nifti(raw / "masks" / "b.nii", lesion()), "1 masks in .* belong to no image"),
        (
            lambda raw: save_nrrd(raw / "images" / "a.nrrd", anatomy()),
            r"belong to two images, first .*a\.nii and a\.nrrd",
        ),
        (lambda raw: save_series(raw / "images", anatomy()), "are not in a subfolder"),
        (
            lambda raw: (raw / "images" / "b.mha").write_bytes(b""),
            r"b\.mha is an unsupported volume: store it as NIfTI",
        ),
        (lambda raw: (raw / "images" / "x").write_bytes(b""), r"images/x is neither DICOM nor one of .*\.nii\.gz"),
        (lambda raw: save_nifti(raw / "masks" / "a.nii", lesion()[1:]), r"a\.nii: the volume is 6x6x5, but the image"),
        (
            lambda raw: save_nifti(raw / "masks" / "a.nii", lesion(), np.eye(4)),
            "away from the image .* affines must be",
        ),
        (
            lambda raw: save_nifti(raw / "masks" / "a.nii", lesion() * 0.3),
            r"must have the values 0 and 1, but this one has 0, 0\.3",
        ),
        (lambda raw: save_hdf5(raw / "masks" / "a.h5", image=lesion()), "contains no dataset 'label': it has image"),
    ],
)
def test_inconsistent_folder_is_reported_in_one_line(tmp_path, spoil, reason):
    save_nifti(tmp_path / "images" / "a.nii", anatomy())
    encoded(importer(tmp_path))
    spoil(tmp_path)
    with pytest.raises(ShardError, match=reason) as caught:
        encoded(importer(tmp_path))
    assert "\n" not in str(caught.value)


def test_volume_masks_of_2d_images_are_refused(tmp_path):
    picture(tmp_path / "images" / "a.png")
    save_nifti(tmp_path / "masks" / "a.nii", lesion())
    with pytest.raises(ShardError, match=r"a\.nii: the masks are volumes but the images are 2D images"):
        importer(tmp_path).splits()


def test_second_mask_of_an_hdf5_file_is_merged_or_refused(tmp_path):
    save_hdf5(tmp_path / "images" / "a.h5", image=anatomy(), label=lesion())
    save_hdf5(tmp_path / "masks" / "a.h5", label=lesion(2))
    with pytest.raises(ShardError, match="image a has several masks"):
        importer(tmp_path, mask_values="classes").splits()
    made = importer(tmp_path, observers="union")
    write_split(made, "train", made.splits()["train"], tmp_path / "train", quiet=True)
    np.testing.assert_array_equal(open_split(tmp_path / "train").read(0).mask, lesion() | lesion(2))


def test_broken_volumes_can_be_skipped(tmp_path):
    save_nifti(tmp_path / "images" / "a.nii", anatomy())
    (tmp_path / "images" / "c.h5").write_bytes(b"cut")
    broken = save_series(tmp_path / "images" / "b", anatomy())
    change_slices(broken, 1, SeriesInstanceUID="1.2")
    made = importer(tmp_path)
    with pytest.raises(ShardError, match=r"files of several series|c\.h5 cannot be read"):
        write_split(made, "train", made.splits()["train"], tmp_path / "train", quiet=True)
    manifest = write_split(made, "train", made.splits()["train"], tmp_path / "train", quiet=True, on_bad_sample="skip")
    assert manifest.samples == 1


@pytest.mark.real
def test_real_left_atria_are_read_as_they_are(tmp_path):
    import h5py

    beside = Path(__file__).parents[3].parent / "shared" / "data"
    found = Path(os.environ.get("UML_REAL_DATA", beside)) / "la2018_h5"
    if not found.is_dir():
        pytest.skip(f"no real data at {found}: set UML_REAL_DATA")
    cases = sorted((found / "2018LA_Seg_Training Set").iterdir())[:2]
    for case in cases:
        link = tmp_path / "raw" / "images" / case.name / "mri_norm2.h5"
        link.parent.mkdir(parents=True)
        link.symlink_to(case / link.name)
    made = importer(tmp_path / "raw", keys="names", mask_classes="background,left atrium")
    manifest = write_split(made, "train", made.splits()["train"], tmp_path / "train", quiet=True)
    assert (manifest.samples, manifest.masked, manifest.mask_classes) == (2, 2, ("background", "left atrium"))
    split = open_split(tmp_path / "train")
    for sample in (split.read(0), split.read(1)):
        with h5py.File(
            found / "2018LA_Seg_Training Set" / sample.key.removesuffix("_mri_norm2") / "mri_norm2.h5"
        ) as file:
            np.testing.assert_array_equal(sample.image[..., 0], file["image"])
            np.testing.assert_array_equal(sample.mask, file["label"])
