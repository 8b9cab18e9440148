"""Write volume files of every format, of a small anatomy that differs along each axis."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import nibabel
import nrrd
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SPACING = (0.5, 0.75, 2.0)
ORIGIN = (-11.0, 7.0, 30.0)
PATIENT = "Doe^Jane"
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def anatomy(shape: Sequence[int] = (7, 6, 5)) -> np.ndarray:
    """Return int16 values (x, y, z), all different, in RAS."""
    return (np.arange(np.prod(shape)).reshape(shape) - 40).astype(np.int16)


def ras_affine(spacing: Sequence[float] = SPACING) -> np.ndarray:
    """Return the affine of a volume whose axes are right, anterior and superior."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = ORIGIN
    return affine


def flipped(values: np.ndarray, affine: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the same anatomy flipped along one axis."""
    move = np.eye(4)
    move[axis, axis], move[axis, 3] = -1, values.shape[axis] - 1
    return np.flip(values, axis), affine @ move


def exchanged(values: np.ndarray, affine: np.ndarray, order: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the same anatomy with its axes in another order."""
    return np.transpose(values, order), affine[:, [*order, 3]]


def save_nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = None, scale: float = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, ras_affine() if affine is None else affine)
    if scale != 1:
        image.header.set_slope_inter(scale, 0)
    nibabel.save(image, path)
    return path


def save_nrrd(path: Path, values: np.ndarray, affine: np.ndarray | None = None, **header) -> Path:
    """Save in LPS, as most programs do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lps = TO_RAS @ (ras_affine() if affine is None else affine)
    given = {"space": "left-posterior-superior", "space directions": lps[:3, :3].T, "space origin": lps[:3, 3]}
    nrrd.write(str(path), values, {**given, **header})
    return path


def save_hdf5(path: Path, spacing: Sequence[float] | None = None, **datasets: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            made = file.create_dataset(name, data=values, compression="gzip")
            if spacing is not None:
                made.attrs["spacing"] = spacing
    return path


def save_series(
    folder: Path, values: np.ndarray, spacing: Sequence[float] = SPACING, offset: int = 0, names: Sequence[str] = ()
) -> Path:
    """Save a series of axial slices like a scanner: rows run to the back, columns to the left of the patient.

    Args:
        folder: folder of the files.
        values: (x, y, z) in RAS, int16.
        spacing: voxel size in mm along x, y and z.
        offset: added to the stored values and removed by the intercept.
        names: names of the files, from the lowest slice up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series, study = generate_uid(), generate_uid()
    width, height, depth = values.shape
    for number in range(depth):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        name = names[number] if names else f"{(number * 7) % depth}_{number}.dcm"
        found = FileDataset(name, {}, file_meta=meta, preamble=b"\0" * 128)
        found.SOPClassUID, found.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        found.PatientName, found.PatientID, found.PatientBirthDate = PATIENT, "MRN-12345", "19700101"
        found.SeriesInstanceUID, found.StudyInstanceUID, found.Modality = series, study, "CT"
        found.InstanceNumber = depth - number
        # The first pixel is farthest to the right and to the front, in LPS coordinates.
        right, front = ORIGIN[0] + (width - 1) * spacing[0], ORIGIN[1] + (height - 1) * spacing[1]
        found.ImagePositionPatient = [-right, -front, ORIGIN[2] + number * spacing[2]]
        found.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        found.PixelSpacing = [spacing[1], spacing[0]]
        found.Rows, found.Columns, found.SamplesPerPixel = height, width, 1
        found.PhotometricInterpretation, found.PixelRepresentation = "MONOCHROME2", 1
        found.BitsAllocated, found.BitsStored, found.HighBit = 16, 16, 15
        found.RescaleSlope, found.RescaleIntercept = 1, -offset
        found.PixelData = (values[::-1, ::-1, number].T + offset).astype("<i2").tobytes()
        found.save_as(folder / name, enforce_file_format=True)
    return folder


def change_slices(folder: Path, count: int | None = None, **tags) -> None:
    """Set tags of the first `count` files of a series, or of all files; a tag set to None is removed."""
    for path in sorted(folder.glob("*.dcm"))[:count]:
        found = pydicom.dcmread(path)
        for name, value in tags.items():
            if value is None:
                del found[name]
            else:
                setattr(found, name, value)
        found.save_as(path)
