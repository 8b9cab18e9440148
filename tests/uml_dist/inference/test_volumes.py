"""Masks and maps of volumes lie on the voxels of their input: the same affine, in every format and orientation."""

import nibabel
import numpy as np
import pydicom
import pytest
import torch

from uml_dist import load_run, predict
from uml_dist.batch import Prediction
from uml_dist.inference import PredictSettings
from uml_dist.inference.reading import read
from uml_dist.inference.sources import find_sources, join_channels
from uml_dist.inference.trained import Prepared, Trained
from uml_shards import ShardError
from uml_shards.sources.volume_files import read_volume
from untrained import write_untrained
from volume_recipe import make_balls
from volume_writers import SPACING, exchanged, flipped, ras_affine, save_hdf5, save_nifti, save_nrrd, save_series

SHAPE = (14, 12, 9)
VOLUMES = Trained("v", 3, 1, "folder", Prepared())


def bright_ball(shape=SHAPE):
    """An int16 volume with a bright ball off its centre, in RAS."""
    centre = (np.asarray(shape) - 1) * np.array([0.3, 0.6, 0.5])
    away = np.linalg.norm(np.stack(np.indices(shape), -1) - centre, axis=-1)
    return np.where(away < 3, 300, 0).astype(np.int16)


@pytest.fixture(scope="module")
def volume_run(tmp_path_factory):
    """Weights for volumes, not trained."""
    folder = tmp_path_factory.mktemp("volumes")
    shards = make_balls(folder / "data")
    streams = {name: {"shards": str(shards), "count": 2} for name in ("labelled", "unlabelled")}
    tree = {
        "recipe": "volume", "streams": streams, "data": {"workers": 0, "size": [8, 8, 8], "augment": "none"},
        "train": {"steps": 1, "best": "dice"},
    }  # fmt: skip
    return load_run(write_untrained(tree, folder / "run"), device="cpu")


@pytest.fixture
def bright_run(volume_run, monkeypatch):
    """A run whose prediction is replaced by one that marks what is bright: masks have a known place."""

    def bright(self, batch):
        statistics = volume_run.statistics
        values = batch.image[:, 0] * statistics.std[0] + statistics.mean[0]
        probability = torch.stack([1 - values / 300, values / 300], 1).clamp(0, 1)
        return Prediction(pixel_probability=probability, pixel_vacuity=1 - probability.amax(1).clamp(max=0.999))

    monkeypatch.setattr(type(volume_run), "predict", bright)
    return volume_run


ORIENTATIONS = {
    "RAS": lambda values, affine: (values, affine),
    "LAS": lambda values, affine: flipped(values, affine, 0),
    "RIA": lambda values, affine: exchanged(*flipped(values, affine, 2), (0, 2, 1)),
    "SPL": lambda values, affine: exchanged(*flipped(*flipped(values, affine, 0), 1), (2, 1, 0)),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("unit", ["mm", "meter"])
def test_nifti_mask_overlays_its_image(bright_run, tmp_path, orientation, unit):
    values, affine = ORIENTATIONS[orientation](bright_ball(), ras_affine())
    image = nibabel.Nifti1Image(values, affine if unit == "mm" else np.diag([0.001] * 3 + [1]) @ affine)
    image.header.set_xyzt_units(unit)
    image.header["descrip"] = b"Doe^Jane"
    (tmp_path / "in").mkdir()
    nibabel.save(image, tmp_path / "in" / "scan.nii.gz")
    made = predict(bright_run, tmp_path / "in", tmp_path / "out")
    stored = nibabel.load(tmp_path / "in" / "scan.nii.gz")
    for file in ("masks/scan", "probabilities/ball/scan", "vacuity/scan"):
        found = nibabel.load(tmp_path / "out" / f"{file}.nii.gz")
        assert np.array_equal(found.affine, stored.affine)
        assert found.shape == stored.shape
        assert found.header.get_xyzt_units()[0] == unit
        for field in ("sform_code", "qform_code", "pixdim"):
            assert np.array_equal(found.header[field], stored.header[field])
        assert b"Doe" not in found.header["descrip"].tobytes()
    mask = np.asarray(nibabel.load(tmp_path / "out" / "masks" / "scan.nii.gz").dataobj)
    assert np.array_equal(mask, (values > 150).astype(np.uint8))
    assert nibabel.load(tmp_path / "out" / "probabilities" / "ball" / "scan.nii.gz").get_fdata() == pytest.approx(
        values / 300, abs=1e-4
    )
    assert made.rows[0]["volume_ml_ball"] == pytest.approx((values > 150).sum() * np.prod(SPACING) / 1000)


def test_nifti_without_transforms_keeps_its_affine(bright_run, tmp_path):
    image = nibabel.Nifti1Image(bright_ball(), None)
    image.header["pixdim"][1:4] = 2, 3, 4
    nibabel.save(image, tmp_path / "a.nii")
    predict(bright_run, tmp_path / "a.nii", tmp_path / "out")
    found, stored = nibabel.load(tmp_path / "out" / "masks" / "a.nii.gz"), nibabel.load(tmp_path / "a.nii")
    assert np.array_equal(found.affine, stored.affine)
    assert (int(found.header["sform_code"]), int(found.header["qform_code"])) == (0, 0)


def test_dicom_series_has_masks_in_nifti_and_as_a_segmentation(bright_run, tmp_path):
    series = save_series(tmp_path / "ct", bright_ball(), offset=1000)
    for path in series.iterdir():
        image = pydicom.dcmread(path)
        image.FrameOfReferenceUID = "1.2.3.4"
        image.save_as(path)
    made = predict(bright_run, series, tmp_path / "out", PredictSettings(dicom_seg=True))
    expected = read_volume(series)
    found = nibabel.as_closest_canonical(nibabel.load(tmp_path / "out" / "masks" / "ct.nii.gz"))
    assert found.affine == pytest.approx(expected.affine)
    assert np.array_equal(np.asarray(found.dataobj), (expected.values > 150).astype(np.uint8))
    segmentation = pydicom.dcmread(tmp_path / "out" / "dicom_seg" / "ct.dcm")
    assert segmentation.Modality == "SEG"
    assert segmentation.SegmentSequence[0].SegmentLabel == "ball"
    images = {image.SOPInstanceUID: image for image in map(pydicom.dcmread, series.iterdir())}
    frames = segmentation.pixel_array
    marked = 0
    for frame, where in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        reference = where.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        source = images[reference]
        assert where.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient
        assert np.array_equal(frame > 0, source.pixel_array - 1000 > 150)
        marked += int((frame > 0).sum())
    assert marked == (bright_ball() > 150).sum()
    assert made.rows[0]["volume_ml_ball"] == pytest.approx(marked * np.prod(SPACING) / 1000)


def test_nrrd_and_hdf5(bright_run, tmp_path):
    save_nrrd(tmp_path / "in" / "a.nrrd", bright_ball())
    save_hdf5(tmp_path / "in" / "b.h5", image=bright_ball())
    made = predict(bright_run, tmp_path / "in", tmp_path / "out")
    found = nibabel.load(tmp_path / "out" / "masks" / "a.nii.gz")
    assert found.affine == pytest.approx(ras_affine())
    assert np.array_equal(np.asarray(found.dataobj), bright_ball() > 150)
    marked = (bright_ball() > 150).sum()
    rows = {row["name"]: row for row in made.rows}
    assert rows["a"]["volume_ml_ball"] == pytest.approx(marked * np.prod(SPACING) / 1000)
    assert rows["b"]["voxels_ball"] == marked  # the file states no voxel size


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.3, 0.4, 0.9)])
@pytest.mark.parametrize("orientation", ["RAS", "SPL"])
def test_resampled_prediction_returns_to_its_voxels(tmp_path, spacing, orientation):
    """A smooth map that is resampled as the importers do, and back, is nearly the same map."""
    smooth = np.add.outer(np.add.outer(np.arange(14.0) * 3, np.arange(12.0) * 4), np.arange(9.0) * 5).astype(np.float32)
    path = save_nifti(tmp_path / "a.nii.gz", *ORIENTATIONS[orientation](smooth, ras_affine()))
    trained = Trained("v", 3, 1, "folder", Prepared(spacing=spacing))
    ready = read(find_sources([path]).sources[0], trained, picture=False)
    assert ready.geometry.spacing == pytest.approx(spacing)
    restored = ready.geometry.restore(torch.from_numpy(ready.image[..., 0]), outside=0.0)
    given = np.asarray(nibabel.load(path).dataobj)
    assert restored.shape == given.shape
    inside = (slice(3, -3),) * 3
    assert restored[inside] == pytest.approx(given[inside], abs=1.0)  # of 129, and a voxel is 3 to 5
    assert abs(restored - given).max() < 8  # edges are extrapolated by less than a voxel


def test_brain_is_cropped_as_in_training_and_its_mask_lies_in_the_complete_volume(tmp_path):
    values = np.zeros((12, 11, 10), np.int16)
    values[3:9, 2:8, 4:9] = np.random.default_rng(0).integers(50, 200, (6, 6, 5))
    path = save_nifti(tmp_path / "a_flair.nii.gz", values)
    ready = read(find_sources([path]).sources[0], Trained("b", 3, 1, "brats2019", Prepared()), picture=False)
    assert ready.image.shape == (6, 6, 5, 1)
    assert ready.image.mean() == pytest.approx(0, abs=1e-5)
    restored = ready.geometry.restore_classes(torch.ones(6, 6, 5, dtype=torch.uint8))
    assert np.array_equal(restored > 0, values > 0)


def test_files_of_the_channels_of_a_case_are_one_volume(tmp_path):
    for number in range(2):
        save_nifti(tmp_path / f"a_000{number}.nii.gz", bright_ball() + np.int16(number))
    save_nifti(tmp_path / "b_0000.nii.gz", bright_ball())
    found = find_sources([tmp_path]).sources
    assert [source.title for source in join_channels(found, 1)] == ["a_0000", "a_0001", "b_0000"]
    both, alone = join_channels(found, 2)
    assert (both.title, alone.title) == ("a", "b_0000")
    trained = Trained("v", 3, 2, "nnunet", Prepared())
    image = read(both, trained, picture=False).image
    assert np.array_equal(image[..., 1], image[..., 0] + 1)
    save_nifti(tmp_path / "a_0001.nii.gz", bright_ball(), 2 * ras_affine())
    with pytest.raises(ShardError, match="their affines must be equal"):
        read(both, trained, picture=False)


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        (
            Trained("p", 2, 3, "folder", Prepared()),
            "is a volume, but run p was trained on images of 3 channels",
        ),
        (Trained("p", 3, 2, "folder", Prepared()), "has 1 channel, but run p was trained on volumes of 2 channels"),
        (Trained("p", 3, 1, "nnunet", Prepared(intensity="auto")), "pass --set intensity=keep for CT"),
    ],
)
def test_volume_that_is_not_like_the_training_data_is_refused(tmp_path, trained, message):
    path = save_nifti(tmp_path / "a.nii.gz", bright_ball())
    with pytest.raises(ShardError, match=message):
        read(find_sources([path]).sources[0], trained, picture=False)


def test_volume_is_predicted_by_windows_and_from_shards(volume_run, tmp_path):
    """The real network, with windows of 8: shards and NIfTI of the same volume have the same prediction."""
    split = volume_run.path.parent / "data" / "val"
    from uml_shards import open_split

    sample = open_split(split).read(0)
    save_nifti(tmp_path / "a.nii.gz", sample.image[..., 0], np.eye(4))
    shards = predict(volume_run, split).cases[0]
    file = predict(volume_run, tmp_path / "a.nii.gz").cases[0]
    assert shards.mask.shape == sample.image.shape[:3]
    assert np.array_equal(shards.pixel_probability(1), file.pixel_probability(1))
