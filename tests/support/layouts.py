"""Write tiny raw data sets in the layouts expected by the importers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import nibabel
import numpy as np
import openpyxl
from PIL import Image

from fundus_layouts import write_eyepacs, write_idrid, write_messidor

ISIC2017_HEADER = "image_id,melanoma,seborrheic_keratosis\n"
ISIC2017_ROWS = {"ISIC_1": "0.0,0.0", "ISIC_2": "1.0,0.0", "ISIC_3": "0,1"}

ISPY1_SHAPE = (12, 10, 8)

REFUGE_SIDE, REFUGE_CENTRE = 60, (20, 36)


def isic2017_table(root: Path, official: str = "Training") -> Path:
    """Return the path of the label table of an official set."""
    return root / f"ISIC-2017_{official}_Part3_GroundTruth.csv"


def write_isic2017(
    root: Path, officials: Sequence[str] = ("Training", "Validation"), size: tuple[int, int] = (20, 30)
) -> Path:
    """Write images of 16 x 16 with masks of another size, whose left 40 % is lesion."""
    height, width = size
    mask = np.zeros((height, width), np.uint8)
    mask[:, : int(0.4 * width)] = 255
    for official in officials:
        images = root / f"ISIC-2017_{official}_Data"
        masks = root / f"ISIC-2017_{official}_Part1_GroundTruth"
        images.mkdir(parents=True)
        masks.mkdir()
        (images / f"ISIC-2017_{official}_Data_metadata.csv").write_text("image_id,age_approximate,sex\n")
        (images / "ISIC_1_superpixels.png").write_bytes(b"beside the images in the official set")
        for number, key in enumerate(ISIC2017_ROWS):
            grey = 60 * number + 20 * officials.index(official)
            Image.fromarray(np.full((16, 16, 3), grey, np.uint8)).save(images / f"{key}.jpg")
            Image.fromarray(mask).save(masks / f"{key}_segmentation.png")
        rows = "".join(f"{key},{row}\n" for key, row in ISIC2017_ROWS.items())
        isic2017_table(root, official).write_text(ISIC2017_HEADER + rows)
    return root


def save_volume(path: Path, values: np.ndarray) -> None:
    """Save a NIfTI file of float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.eye(4)), path)


def ispy1_image(raw: Path, patient: int) -> Path:
    """Return the path of a patient's volume."""
    return raw / "Dataset ISPY" / f"ISPY_{patient}" / "DCEMRI_1.nii"


def ispy1_mask(raw: Path, patient: int) -> Path:
    """Return the path of a patient's tumour mask."""
    return raw / "Tumor_segmentation_new" / f"ISPY_{patient}_tumor_mask.nii"


def write_ispy1(raw: Path, patients: int = 20) -> Path:
    """Write volumes of 8 constant slices; the tumour is in slices 1 to 4 and largest in slice 2."""
    for patient in range(1001, 1001 + patients):
        save_volume(ispy1_image(raw, patient), np.broadcast_to(np.linspace(0, 700, ISPY1_SHAPE[2]), ISPY1_SHAPE))
        tumour = np.zeros(ISPY1_SHAPE)
        tumour[2, 3:5, 1:5] = 1
        tumour[2:9, 3, 2] = 1
        save_volume(ispy1_mask(raw, patient), tumour)
    return _write_outcomes(raw, patients)


def write_deep_ispy1(raw: Path, patients: int = 20) -> Path:
    """Write volumes of 16 slices that increase along every axis; the tumour is in slices 2 to 13, largest in 4."""
    x, y, z = np.indices((*ISPY1_SHAPE[:2], 16))
    for patient in range(1001, 1001 + patients):
        save_volume(ispy1_image(raw, patient), x + 20 * y + 100 * z)
        tumour = np.zeros(x.shape)
        tumour[2, 3:5, 2:14] = 1
        tumour[2:9, 3, 4] = 1
        save_volume(ispy1_mask(raw, patient), tumour)
    return _write_outcomes(raw, patients)


def _write_outcomes(raw: Path, patients: int) -> Path:
    """Write the table: every fourth response is complete, and one patient's is unknown."""
    rows = [f"{1001 + i}.0,{float(i % 4 == 0)}" for i in range(patients)]
    (raw / "outcome_new.csv").write_text("\n".join(["SUBJECTID,PCR", *rows, "1999,"]) + "\n")
    return raw


def refuge_mask(disc: int = 10, cup: int = 4) -> np.ndarray:
    """Return a mask of a disc around REFUGE_CENTRE with a cup, in the organisers' values."""
    rows, columns = np.ogrid[:REFUGE_SIDE, :REFUGE_SIDE]
    distance = np.hypot(rows - REFUGE_CENTRE[0], columns - REFUGE_CENTRE[1])
    return np.where(distance < cup, 0, np.where(distance < disc, 128, 255)).astype(np.uint8)


def save_refuge(images: Path, masks: Path, names: Sequence[str], mask: np.ndarray | None = None) -> None:
    """Save photographs of one colour and their masks."""
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(np.full((REFUGE_SIDE, REFUGE_SIDE, 3), 40 * number, np.uint8)).save(images / f"{name}.jpg")
        Image.fromarray(refuge_mask() if mask is None else mask).save(masks / f"{name}.bmp")


def write_refuge(root: Path) -> Path:
    """Write training labels as folder names, and validation labels in a workbook with an alternative header."""
    truth = root / "Annotation-Training400" / "Annotation-Training400" / "Disc_Cup_Masks"
    save_refuge(root / "Training400" / "Glaucoma", truth / "Glaucoma", ["g0001"])
    save_refuge(root / "Training400" / "Non-Glaucoma", truth / "Non-Glaucoma", ["n0001", "n0002"])
    truth = root / "REFUGE-Validation400-GT"
    save_refuge(root / "REFUGE-Validation400", truth / "Disc_Cup_Masks", ["V0001", "V0002"])
    book = openpyxl.Workbook()
    assert book.active is not None
    for row in (("ID", "ImgName", "Label(Glaucoma=1)"), (1, "V0001.jpg", 1), (2, "V0002.jpg", 0.0), (None, None, None)):
        book.active.append(row)
    book.save(truth / "Glaucoma_label_and_Fovea_location.xlsx")
    return root


def write_folder(raw: Path, patients: int = 40) -> Path:
    """Write a user's folder: two images per patient, every third without a mask, every fifth without a label."""
    rows = ["image,label,patient"]
    (raw / "images").mkdir(parents=True)
    (raw / "masks").mkdir()
    for number in range(2 * patients):
        picture = np.full((20, 24, 3), 3 * number, np.uint8)
        Image.fromarray(picture).save(raw / "images" / f"case {number}.png")
        if number % 3:
            picture[5 : 5 + number % 10] = 255
            Image.fromarray(np.where(picture[..., 0] == 255, 255, 0).astype(np.uint8)).save(
                raw / "masks" / f"case {number}_lesion.png"
            )
        label = ("benign", "malignant")[number % 2] if number % 5 else ""
        rows.append(f"case {number},{label},P{number // 2}")
    (raw / "labels.csv").write_text("\n".join(rows) + "\n")
    return raw


ATRIA_SHAPE, BRATS_SHAPE = (30, 26, 12), (20, 18, 16)


def atrium(number: int, shape: Sequence[int] = ATRIA_SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, uint8, that differs everywhere, and its cavity of 0 and 1."""
    x, y, z = np.indices(shape)
    cavity = (np.abs(x - 14 - number % 3) < 5) & (np.abs(y - 11) < 4) & (np.abs(z - 6) < 3)
    return (3 * x + 2 * y + z + 40 * cavity + number).astype(np.uint8), cavity.astype(np.uint8)


def write_left_atrium(root: Path, train: Sequence[str] = tuple("ABCDEF"), test: Sequence[str] = ("X", "Y")) -> Path:
    """Write the HDF5 files of UA-MT with both lists."""
    for number, name in enumerate((*train, *test)):
        image, cavity = atrium(number)
        folder = root / "2018LA_Seg_Training Set" / name
        folder.mkdir(parents=True)
        with h5py.File(folder / "mri_norm2.h5", "w") as file:
            file.create_dataset("image", data=(image / 50 - 1).astype(np.float32), compression="gzip")
            file.create_dataset("label", data=cavity, compression="gzip")
    (root / "train.list").write_text("".join(f"{name}\n" for name in train))
    (root / "test.list").write_text("".join(f"{name}\n" for name in test))
    return root


def glioma(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, int16, whose brain starts at voxel 3 and ends before the last 2, and a mask of 0, 1, 2 and 4."""
    image, mask = np.zeros(BRATS_SHAPE, np.int16), np.zeros(BRATS_SHAPE, np.uint8)
    brain = tuple(slice(3, side - 2) for side in BRATS_SHAPE)
    image[brain] = (np.indices(BRATS_SHAPE).sum(0) * 7 % 31 + 100 + number)[brain]
    mask[6:12, 6:12, 6:12], mask[7:10, 7:10, 7:10], mask[8, 8, 8] = 2, 4, 1
    return image, mask


def write_brats2019(root: Path, high: int = 30, low: int = 15) -> Path:
    """Write FLAIR and masks of cases of both grades."""
    for grade, count in (("HGG", high), ("LGG", low)):
        for number in range(count):
            image, mask = glioma(number)
            name = f"BraTS19_{grade}_{number}_1"
            folder = root / "MICCAI_BraTS_2019_Data_Training" / grade / name
            folder.mkdir(parents=True)
            for part, values in (("flair", image), ("seg", mask)):
                nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / f"{name}_{part}.nii.gz")
    (root / "MICCAI_BraTS_2019_Data_Training" / "name_mapping.csv").write_text("Grade\n")
    return root


def write_nnunet(root: Path, cases: int = 20) -> Path:
    """Write an nnU-Net data set; every second case has no labels."""
    root.mkdir()
    content = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "atrium": 1}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps({**content, "numTraining": cases}))
    for number in range(cases):
        image, cavity = atrium(number)
        for folder, name, values in (("imagesTr", f"case{number}_0000", image), ("labelsTr", f"case{number}", cavity)):
            if folder == "imagesTr" or number % 2:
                (root / folder).mkdir(exist_ok=True)
                nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), root / folder / f"{name}.nii.gz")
    return root


RAW: dict[str, Callable[[Path], Path]] = {
    "brats2019": write_brats2019,
    "eyepacs": write_eyepacs,
    "folder": write_folder,
    "idrid": write_idrid,
    "idrid_grading": write_idrid,
    "isic2017": write_isic2017,
    "ispy1": write_deep_ispy1,
    "left_atrium": write_left_atrium,
    "messidor": write_messidor,
    "nnunet": write_nnunet,
    "refuge": write_refuge,
}
"""Importer -> function that writes its raw data; the phantoms need none."""
