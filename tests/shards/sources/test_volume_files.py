"""Tests of the readers of volume files, on files of each format."""

import gzip
import shutil
import sys
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, RLELossless

from uml_shards import ShardError
from uml_shards.sources.raw_volume import MAX_VOXELS
from uml_shards.sources.volume_files import Volume, read_numbers, read_volume, refuse_other_place
from volume_writers import (
    PATIENT,
    SPACING,
    anatomy,
    change_slices,
    exchanged,
    flipped,
    ras_affine,
    save_hdf5,
    save_nifti,
    save_nrrd,
    save_series,
)

HERE = Path("volume")


def assert_same(volume: Volume, values: np.ndarray | None = None) -> None:
    np.testing.assert_array_equal(volume.values, anatomy() if values is None else values)
    np.testing.assert_allclose(volume.affine, ras_affine(), atol=1e-5)
    np.testing.assert_allclose(volume.spacing, SPACING, rtol=1e-6)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("axes", [(), (0,), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("ending", ["nii", "nii.gz", "nrrd"])
def test_same_anatomy_gives_the_same_array_in_any_orientation(tmp_path, ending, axes, order):
    stored = (anatomy(), ras_affine())
    for axis in axes:
        stored = flipped(*stored, axis)
    save = save_nrrd if ending == "nrrd" else save_nifti
    volume = read_volume(save(tmp_path / f"a.{ending}", *exchanged(*stored, order)))
    assert_same(volume)
    assert volume.values.dtype == np.int16


def test_slices_of_a_series_are_sorted_by_position(tmp_path):
    names = ["e.dcm", "b.DCM", "d.dcm", "a.dcm", "c.dcm"]
    series = save_series(tmp_path / "series", anatomy(), offset=1024, names=names)
    (series / "._a.dcm").write_bytes(b"what macOS leaves")
    volume = read_volume(series)
    assert_same(volume)
    assert volume.values.dtype == np.int16


def test_sagittal_series_is_oriented_to_ras(tmp_path):
    sagittal = save_series(tmp_path / "a", anatomy())
    # Rows run up and columns to the back, so slices are side by side along x.
    places = {}
    for number, path in enumerate(sorted(sagittal.glob("*.dcm"))):
        places[path] = [float(number * 3), -5.0, 9.0]
        found = pydicom.dcmread(path)
        found.ImageOrientationPatient, found.ImagePositionPatient = [0, 1, 0, 0, 0, -1], places[path]
        found.save_as(path)
    volume = read_volume(sagittal)
    assert volume.values.shape == (5, 7, 6)
    assert volume.spacing == pytest.approx((3, SPACING[0], SPACING[1]))
    # The first pixel of the file at LPS (12, -5, 9), which is RAS (-12, 5, 9), the leftmost slice.
    last = pydicom.dcmread(sorted(sagittal.glob("*.dcm"))[4]).pixel_array
    voxel = np.linalg.solve(volume.affine, [-12, 5, 9, 1])[:3]
    assert volume.values[tuple(np.rint(voxel).astype(int))] == last[0, 0]
    assert voxel == pytest.approx([0, 6, 5])


def test_hdf5_keeps_the_order_of_its_axes(tmp_path):
    values = anatomy().astype(np.float32) / 3
    volume = read_volume(save_hdf5(tmp_path / "a.h5", image=values, label=(values > 0).astype(np.uint8)))
    np.testing.assert_array_equal(volume.values, values)
    assert (volume.spacing, volume.stated) == ((1, 1, 1), False)
    assert read_volume(save_hdf5(tmp_path / "b.hdf5", SPACING, image=values)).spacing == SPACING
    np.testing.assert_array_equal(read_numbers(tmp_path / "a.h5").values, values > 0)


def test_nrrd_without_a_space_uses_its_spacings(tmp_path):
    import nrrd

    nrrd.write(str(tmp_path / "a.nrrd"), anatomy(), {"spacings": list(SPACING)})
    nrrd.write(str(tmp_path / "b.nrrd"), anatomy(), {})
    stated, silent = read_volume(tmp_path / "a.nrrd"), read_volume(tmp_path / "b.nrrd")
    assert (stated.spacing, stated.stated) == (SPACING, True)
    assert (silent.spacing, silent.stated) == ((1, 1, 1), False)


def test_channels_are_the_last_axis(tmp_path):
    values = np.stack([anatomy(), anatomy() * 2], axis=3)
    np.testing.assert_array_equal(
        read_volume(save_nifti(tmp_path / "a.nii", *flipped(values, ras_affine(), 0))).values, values
    )
    assert read_volume(save_nifti(tmp_path / "b.nii", values[..., :1])).values.shape == (7, 6, 5)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.uint8([0, 255]), np.int16),
        (np.uint16([0, 32767]), np.int16),
        (np.uint16([0, 40000]), np.float32),
        (np.int32([-5, 3000]), np.int16),
        (np.int32([-40000, 0]), np.float32),
        (np.float64([0.5, 2]), np.float32),
    ],
)
def test_integers_become_int16_if_they_fit(tmp_path, values, dtype):
    volume = read_volume(save_nifti(tmp_path / "a.nii", np.resize(values, (2, 3, 4))))
    assert volume.values.dtype == dtype
    np.testing.assert_array_equal(volume.values, np.resize(values, (2, 3, 4)))


def test_stored_scale_is_applied(tmp_path):
    volume = read_volume(save_nifti(tmp_path / "a.nii", anatomy(), scale=0.25))
    assert volume.values.dtype == np.float32
    np.testing.assert_array_equal(volume.values, anatomy() * 0.25)


def test_microns_and_metres_become_millimetres(tmp_path):
    for unit, factor in (("micron", 0.001), ("meter", 1000)):
        image = nibabel.Nifti1Image(anatomy(), np.diag([2.0, 2, 2, 1]))
        image.header.set_xyzt_units(unit)
        nibabel.save(image, tmp_path / "a.nii")
        assert read_volume(tmp_path / "a.nii").spacing == pytest.approx((2 * factor,) * 3)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_series_is_read_or_its_syntax_is_named(tmp_path, syntax):
    folder = save_series(tmp_path / "a", anatomy())
    for path in sorted(folder.glob("*.dcm")):
        found = pydicom.dcmread(path)
        if syntax == RLELossless:
            found.compress(syntax)
        else:
            found.file_meta.TransferSyntaxUID = syntax
            found.PixelData = pydicom.encaps.encapsulate([b"not a picture"])
        found.save_as(path)
    if syntax == RLELossless:
        assert_same(read_volume(folder))
        return
    with pytest.raises(
        ShardError, match=r"dcm cannot be read: pixels cannot be decoded \(JPEG 2000 .*Lossless Only\)"
    ) as caught:
        read_volume(folder)
    assert "\n" not in str(caught.value)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(-999, 999, (20, 20, 20)).astype(np.int16)


def flat(path: Path) -> None:
    save_nifti(path, anatomy())
    data = bytearray(path.read_bytes())
    data[312:328] = bytes(16)  # the row of the affine for z
    path.write_bytes(data)


def spoiled_gzip(path: Path) -> None:
    data = bytearray(gzip.compress(save_nifti(path.with_name("whole.nii"), noise()).read_bytes(), 0))
    data[-200] ^= 1  # a voxel: only the checksum at the end reveals it
    path.write_bytes(data)


def cut(save, *arguments):
    def write(path: Path) -> None:
        save(path, *arguments)
        path.write_bytes(path.read_bytes()[:-99])

    return write


def linked(path: Path) -> None:
    save_hdf5(path.with_name("other.h5"), image=anatomy())
    with h5py.File(path, "w") as file:
        file["image"] = h5py.ExternalLink("other.h5", "image")


def detached(path: Path) -> None:
    save_nrrd(path, anatomy())
    header = path.read_bytes().replace(b"encoding:", b"data file: /etc/hostname\nencoding:")
    path.write_bytes(header)


def huge(path: Path) -> None:
    save_nifti(path, anatomy())
    data = bytearray(path.read_bytes())
    data[42:48] = np.int16([32000] * 3).tobytes()
    path.write_bytes(data)


def huge_nrrd(path: Path) -> None:
    save_nrrd(path, anatomy())
    path.write_bytes(path.read_bytes().replace(b"sizes: 7 6 5", b"sizes: 70000 60000 5"))


def coloured(path: Path) -> None:
    colours = np.zeros((3, 3, 3), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), path)


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("a.nii", lambda path: path.write_bytes(b"cut"), "cannot be read"),
        ("a.nii", cut(save_nifti, anatomy()), "cannot be read"),
        ("a.nii.gz", cut(save_nifti, noise()), "cannot be read"),
        ("a.nii.gz", spoiled_gzip, "cannot be read: CRC check failed"),
        ("a.nii", lambda path: save_nifti(path, anatomy()[..., 0]), "must have 3 or 4 dimensions, but has 2"),
        ("a.nii", lambda path: save_nifti(path, anatomy()[..., None, None].repeat(2, 4)), "dimensions, but has 5"),
        (
            "a.nii",
            lambda path: save_nifti(path, np.full((2, 3, 4), np.nan)),
            "contains 24 NaN or infinite values",
        ),
        ("a.nii", lambda path: save_nifti(path, np.full((2, 3, 4), 1e300)), "contains 24 NaN or infinite values"),
        ("a.nii", flat, "the affine has no inverse"),
        ("a.nii", lambda path: save_nifti(path, np.zeros((2, 3, 4), np.complex64)), "has dtype complex64"),
        ("a.nii", coloured, "must be integers or real numbers"),
        ("a.nii", huge, f"32000x32000x32000 exceeds the limit of {MAX_VOXELS} voxels"),
        ("a.nrrd", lambda path: path.write_bytes(b"NRRD0004\nsizes"), "cannot be read"),
        ("a.nrrd", cut(save_nrrd, noise()), "cannot be read"),
        (
            "a.nrrd",
            lambda path: save_nrrd(path, anatomy(), space="scanner-xyz"),
            "has the space 'scanner-xyz': must be",
        ),
        ("a.nrrd", detached, "has its data in another file"),
        ("a.nrrd", huge_nrrd, "70000x60000x5 exceeds the limit"),
        ("a.h5", lambda path: path.write_bytes(b"no"), "cannot be read"),
        ("a.h5", lambda path: save_hdf5(path, picture=anatomy()), "contains no dataset 'image': it has picture"),
        ("a.h5", lambda path: save_hdf5(path, image=anatomy()[0]), "dataset image must have 3 or 4 .* but has 2"),
        ("a.h5", lambda path: save_hdf5(path, (1, 2), image=anatomy()), "spacing of the dataset image must be 3 pos"),
        ("a.h5", linked, "contains no dataset 'image'"),
        ("a.mha", lambda path: path.write_bytes(b""), "must be one of .*nii.gz"),
    ],
)
def test_unusable_file_is_reported_in_one_line(tmp_path, name, write, reason):
    write(tmp_path / name)
    with pytest.raises(ShardError, match=reason) as caught:
        read_volume(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda folder: next(folder.glob("*_2.dcm")).unlink(),
            r"slices are not evenly spaced, 4\.000 mm instead of 2\.000 mm",
        ),
        (
            lambda folder: shutil.copy(next(folder.glob("*_2.dcm")), folder / "x.dcm"),
            "two slices have the same position",
        ),
        (lambda folder: change_slices(folder, 1, SeriesInstanceUID="1.2.3"), "contains files of several series"),
        (lambda folder: change_slices(folder, 1, Rows=7, Columns=6), "slices differ in Rows, 7 and 6"),
        (lambda folder: change_slices(folder, 1, PixelSpacing=[1, 1]), "slices differ in PixelSpacing"),
        (
            lambda folder: change_slices(folder, PixelSpacing=None),
            "is not a slice of a volume: it lacks PixelSp",
        ),
        (lambda folder: change_slices(folder, PhotometricInterpretation="MONOCHROME1"), "interpretation MONOCHROME1"),
        (lambda folder: change_slices(folder, NumberOfFrames=3), "contains 3 frames"),
        (lambda folder: change_slices(folder, BurnedInAnnotation="YES"), "patient text in its pixels"),
        (lambda folder: change_slices(folder, PixelData=b"\0\0"), "pixels cannot be decoded"),
        (lambda folder: change_slices(folder, ImageOrientationPatient=[1, 0, 0, 0, 0.9, 0.436]), "shifted sideways"),
        (lambda folder: (folder / "z.dcm").write_bytes(b"no DICOM"), r"z\.dcm cannot be read"),
        (
            lambda folder: [path.unlink() for path in list(folder.glob("*.dcm"))[1:]],
            "contains 1 DICOM files: a volume needs",
        ),
    ],
)
def test_invalid_series_is_reported_in_one_line(tmp_path, spoil, reason):
    folder = save_series(tmp_path / "series", anatomy())
    spoil(folder)
    with pytest.raises(ShardError, match=reason) as caught:
        read_volume(folder)
    assert "\n" not in str(caught.value)
    assert PATIENT not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "library"), [("a.nii", "nibabel"), ("a.nrrd", "nrrd"), ("a.h5", "h5py"), ("a", "pydicom")]
)
def test_missing_library_error_names_the_extra(tmp_path, monkeypatch, name, library):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.dcm").write_bytes(b"")
    for module in [loaded for loaded in sys.modules if loaded.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ShardError, match=r"needs \w+: pip install 'uml-shards\[volumes\]'"):
        read_volume(tmp_path / name)


def test_masks_contain_integers_in_any_dtype(tmp_path):
    numbers = np.resize([0, 1, 255, 3], (2, 3, 4))
    for dtype in (np.uint8, np.int64, np.float64):
        kept = numbers.astype(dtype)
        path = save_nrrd(tmp_path / "a.nrrd", kept) if dtype == np.int64 else save_nifti(tmp_path / "a.nii", kept)
        np.testing.assert_array_equal(read_numbers(path).values, numbers)
    with pytest.raises(ShardError, match=r"a\.nii: mask value 0\.5 is not an integer"):
        read_numbers(save_nifti(tmp_path / "a.nii", numbers / 2))
    with pytest.raises(ShardError, match="the mask has 2 channels"):
        read_numbers(save_nifti(tmp_path / "a.nii", np.stack([numbers, numbers], 3).astype(np.uint8)))


def test_volumes_at_different_positions_are_refused():
    image = Volume(anatomy(), ras_affine())
    refuse_other_place(Volume(anatomy(), ras_affine() + 1e-4), HERE, image, HERE)
    with pytest.raises(ShardError, match=r"the volume is 6x6x5, but the image .* is 7x6x5"):
        refuse_other_place(Volume(anatomy()[1:], ras_affine()), HERE, image, HERE)
    away = ras_affine()
    away[1, 3] += 0.2
    with pytest.raises(ShardError, match=r"is up to 0\.2 mm away from the image"):
        refuse_other_place(Volume(anatomy(), away), HERE, image, HERE)
