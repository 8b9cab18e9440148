"""The voxel size of a volume is what its file states; where the file states none, it is unknown until it is given."""

from itertools import permutations
from pathlib import Path

import h5py
import nibabel
import nrrd
import numpy as np
import pytest
from nibabel.orientations import aff2axcodes

from uml_shards import ShardError
from uml_shards.sources.volume_files import read_numbers, read_volume, refuse_other_place
from volume_writers import SPACING, anatomy, exchanged, flipped, save_hdf5, save_nifti, save_nrrd

EVERYWHERE = ("image", "label", "file")


def hdf5(path: Path, **stated: object) -> Path:
    save_hdf5(path, image=anatomy(), label=(anatomy() > 0).astype(np.uint8))
    with h5py.File(path, "r+") as file:
        for place, spacing in stated.items():
            (file if place == "file" else file[place]).attrs["spacing"] = spacing
    return path


@pytest.mark.parametrize("places", [("image",), ("label",), ("file",), EVERYWHERE])
def test_spacing_of_hdf5_may_be_stated_in_any_place_for_all_datasets(tmp_path, places):
    path = hdf5(tmp_path / "a.h5", **dict.fromkeys(places, SPACING))
    image, mask = read_volume(path), read_numbers(path)
    assert (image.spacing, image.stated) == (mask.spacing, mask.stated) == (SPACING, True)
    refuse_other_place(mask, path, image, path)


def test_places_that_disagree_are_named(tmp_path):
    path = hdf5(tmp_path / "a.h5", image=(1, 1, 2), file=(1, 1, 3))
    with pytest.raises(ShardError, match=r"a\.h5: .* 1,1,2 in the dataset image and 1,1,3 in the file: correct one"):
        read_volume(path)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, -1, 1), (1, np.nan, 1), (1, np.inf, 1), "1,1,1", 1])
def test_a_spacing_that_is_not_3_positive_numbers_is_refused(tmp_path, spacing):
    with pytest.raises(ShardError, match=r"spacing of the file must be 3 positive numbers"):
        read_volume(hdf5(tmp_path / "a.h5", file=spacing))


def nifti(path: Path, pixdim: object = None, transform: int = 0, unit: str = "unknown") -> Path:
    image = nibabel.Nifti1Image(anatomy(), None)
    image.header.set_xyzt_units(unit)
    if transform:
        image.set_qform(np.diag([*SPACING, 1]), transform)
    nibabel.save(image, path)
    if pixdim is not None:
        data = bytearray(path.read_bytes())
        data[80:92] = np.float32(pixdim).tobytes()
        path.write_bytes(data)
    return path


UNKNOWN = {
    "a.h5": hdf5,
    "zero.nii": lambda path: nifti(path, (0.5, 0.5, 0)),
    "zero_with_qform.nii": lambda path: nifti(path, (0, 0, 0), transform=1),
    "unset.nii": nifti,
    "a.nrrd": lambda path: nrrd.write(str(path), anatomy(), {}),
    "space.nrrd": lambda path: nrrd.write(str(path), anatomy(), {"space": "RAS"}),
    "nan.nrrd": lambda path: nrrd.write(str(path), anatomy(), {"spacings": [np.nan] * 3}),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_size_that_no_file_states_is_unknown_until_it_is_given(tmp_path, name):
    UNKNOWN[name](tmp_path / name)
    assert not read_volume(tmp_path / name).stated
    given = read_volume(tmp_path / name, SPACING)
    assert (given.spacing, given.stated) == (pytest.approx(SPACING), True)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: nifti(path, SPACING),
        lambda path: nifti(path, transform=1),
        lambda path: nifti(path, (1, 1, 1), unit="mm"),
        lambda path: save_nifti(path, anatomy(), np.diag([1.0, 1, 1, 1])),
    ],
)
def test_a_stated_size_is_kept_whatever_is_given_for_others(tmp_path, write):
    write(tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    assert volume.stated
    assert read_volume(tmp_path / "a.nii", (7, 7, 7)).spacing == volume.spacing


def test_a_mask_of_unknown_size_has_that_of_its_image_if_it_is_not_turned(tmp_path):
    image, mask = hdf5(tmp_path / "image.h5", file=SPACING), hdf5(tmp_path / "mask.h5")
    refuse_other_place(read_numbers(mask), mask, read_volume(image), image)
    refuse_other_place(read_numbers(image), image, read_volume(mask), mask)
    placed = save_nifti(tmp_path / "image.nii", anatomy())
    with pytest.raises(ShardError, match=r"mm away from the image .*, and .*mask\.h5 does not state its voxel size"):
        refuse_other_place(read_numbers(mask), mask, read_volume(placed), placed)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ((1, 1, 1e30), "the voxel size is 1 x 1 x 1e\\+30 mm, outside"),
        ((1, 1, 1e-12), "the voxel size is 1 x 1 x 1e-12 mm, outside"),
        ((1, 1, 0), "the affine has no inverse"),
        ((1, np.nan, 1), "the affine has no inverse"),
    ],
)
def test_an_impossible_size_is_refused(tmp_path, sizes, reason):
    save_nrrd(tmp_path / "a.nrrd", anatomy(), np.diag([*sizes, 1.0]))
    with pytest.raises(ShardError, match=rf"a\.nrrd: {reason}"):
        read_volume(tmp_path / "a.nrrd")


@pytest.mark.parametrize("name", ["sform_code", "qform_code"])
def test_a_transform_of_an_unknown_kind_is_refused(tmp_path, name):
    path = save_nifti(tmp_path / "a.nii", anatomy())
    data = bytearray(path.read_bytes())
    data[254 if name == "sform_code" else 252] = 127
    path.write_bytes(data)
    with pytest.raises(ShardError, match=rf"has the {name} 127: must be 0 to 5"):
        read_volume(path)


def random_rotation(random: np.random.Generator) -> np.ndarray:
    """Return a rotation (3, 3), uniformly distributed up to its handedness."""
    rotation, _ = np.linalg.qr(random.normal(size=(3, 3)))
    return rotation * np.sign(np.linalg.det(rotation))


@pytest.mark.parametrize("seed", range(20))
def test_an_oblique_volume_is_the_same_array_in_whatever_order_its_axes_are_stored(tmp_path, seed):
    random = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = random_rotation(random) @ np.diag([0.8, 0.8, 3.0])
    affine[:3, 3] = random.normal(0, 30, 3)
    image = read_volume(save_nifti(tmp_path / "image.nii", anatomy(), affine))
    for order in permutations(range(3)):
        stored = exchanged(anatomy(), affine, order)
        for axis in np.flatnonzero(random.integers(0, 2, 3)):
            stored = flipped(*stored, int(axis))
        path = save_nifti(tmp_path / "copy.nii", *stored)
        copy = read_volume(path)
        np.testing.assert_array_equal(copy.values, image.values)
        refuse_other_place(copy, path, image, tmp_path / "image.nii")
    assert aff2axcodes(image.affine) == ("R", "A", "S")
