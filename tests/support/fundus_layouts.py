"""Write tiny raw data sets of fundus photographs in the layouts expected by their importers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE, RADIUS = (60, 96), 36
"""Height and width of a photograph, and the radius of its disc, which is cut at top and bottom."""

CENTRE = (30, 50)

SQUARE = (14, -6, 86, 66)
"""The square around the disc: left, top, right, bottom."""

LESIONS = {
    "1. Microaneurysms": "MA",
    "2. Haemorrhages": "HE",
    "3. Hard Exudates": "EX",
    "4. Soft Exudates": "SE",
    "5. Optic Disc": "OD",
}
FOLDERS = {"train": "a. Training Set", "test": "b. Testing Set"}
TABLES = {
    "train": "a. IDRiD_Disease Grading_Training Labels.csv",
    "test": "b. IDRiD_Disease Grading_Testing Labels.csv",
}
TWINS = "derived_seg_to_grading.csv"

BLACK_RED = [0, 0, 0, 255, 0, 0]


def fundus(number: int, size: tuple[int, int] = SIZE, radius: int = RADIUS) -> np.ndarray:
    """Return a photograph: a disc of one colour, different for each number, on nearly black."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    inside = np.hypot(rows - CENTRE[0], columns + 0.5 - CENTRE[1]) < radius
    colour = np.array([180, 60 + 8 * (number % 16), 8 + 8 * (number // 16)], np.uint8)
    return np.where(inside[..., None], colour, np.uint8(2))


def lesion(number: int, kind: int) -> np.ndarray:
    """Return a mask of 0 and 1: a square of 8 pixels that overlaps those of other kinds."""
    mask = np.zeros(SIZE, np.uint8)
    mask[20 + kind : 28 + kind, 40 + number % 5 + 3 * kind :][:, :8] = 1
    return mask


def red(mask: np.ndarray) -> Image.Image:
    """Return a mask of 0 and 1 as IDRiD stores it, with a palette of black and red."""
    image = Image.fromarray(mask)
    image.putpalette(BLACK_RED)  # makes the greys indices
    return image


def save(path: Path, image: Image.Image) -> None:
    """Save an image, its folder included; a JPEG with sharp edges."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **({} if path.suffix == ".tif" else {"quality": 95, "subsampling": 0}))


def idrid_image(raw: Path, split: str, name: str, part: str = "A. Segmentation") -> Path:
    """Return the path of an image of IDRiD."""
    return raw / part / "1. Original Images" / FOLDERS[split] / f"{name}.jpg"


def idrid_mask(raw: Path, split: str, name: str, kind: str) -> Path:
    """Return the path of a mask, of which the kind is the end of its name."""
    folder = next(folder for folder, ending in LESIONS.items() if ending == kind)
    root = raw / "A. Segmentation" / "2. All Segmentation Groundtruths" / FOLDERS[split]
    return root / folder / f"{name}_{kind}.tif"


def idrid_table(raw: Path, split: str) -> Path:
    """Return the path of a table of grades of IDRiD."""
    return raw / "B. Disease Grading" / "2. Groundtruths" / TABLES[split]


def write_idrid(raw: Path) -> Path:
    """Write both parts of IDRiD: 10 + 4 images with masks, 20 + 10 with grades from 0 to 4 in turn, and the twins.

    IDRiD_01 is also train 004, IDRiD_02 test 003, IDRiD_03 train 006 with a copy of another grade, train 007, and
    IDRiD_55 train 005. The odd images of part A have no soft exudates. One mask is RGBA, one has 0 and 1.
    """
    parts = {"train": range(1, 11), "test": range(55, 59)}
    for split, numbers in parts.items():
        for number in numbers:
            name = f"IDRiD_{number:02}"
            save(idrid_image(raw, split, name), Image.fromarray(fundus(number)))
            for kind, ending in enumerate(LESIONS.values()):
                path = idrid_mask(raw, split, name, ending)
                path.parent.mkdir(parents=True, exist_ok=True)
                if ending != "SE" or number % 2 == 0:
                    red(lesion(number, kind)).save(path)
    red(lesion(56, 2)).convert("RGB").convert("RGBA").save(idrid_mask(raw, "test", "IDRiD_56", "EX"))
    Image.fromarray(lesion(2, 0)).save(idrid_mask(raw, "train", "IDRiD_02", "MA"))
    write_twins(raw, ["IDRiD_01,a,train,IDRiD_004,3,0,1,", "IDRiD_02,a,test,IDRiD_003,2,0,1,"])
    write_idrid_grading(raw)
    return raw


def write_twins(raw: Path, rows: Sequence[str] = ()) -> Path:
    """Write the table of twins: the given rows, and a contradictory copy, a leak, and an image without a twin."""
    more = (
        "IDRiD_03,a,train,IDRiD_006,0,0,1,twin has an exact duplicate train|IDRiD_007 with labels 1/0",
        "IDRiD_04,a,,,,,0.9,no certain twin",
        "IDRiD_55,b,train,IDRiD_005,4,1,1,",
    )
    header = "seg_image,seg_split,grading_split,grading_image,dr_grade,dme_risk,highpass_correlation,note"
    raw.mkdir(parents=True, exist_ok=True)
    (raw / TWINS).write_text("\n".join([header, *rows, *more]) + "\n")
    return raw / TWINS


def write_idrid_grading(raw: Path) -> Path:
    """Write part B of IDRiD, with the blanks and empty columns of its tables."""
    for split, count in {"train": 20, "test": 10}.items():
        grades = {f"IDRiD_{number:03}": (number - 1) % 5 for number in range(1, count + 1)}
        for number, name in enumerate(grades):
            path = idrid_image(raw, split, name, "B. Disease Grading")
            save(path, Image.fromarray(fundus(100 + number + (100 if split == "test" else 0))))
        write_grades(raw, split, grades)
    return raw


def write_grades(raw: Path, split: str, grades: Mapping[str, int | str]) -> None:
    """Write a table of part B of IDRiD."""
    empty = "," * 9 if split == "train" else ""
    rows = [f"Image name,Retinopathy grade,Risk of macular edema {empty}"]
    rows += [f"{name},{grade},0{empty}" for name, grade in grades.items()]
    path = idrid_table(raw, split)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\r\n".join(rows) + "\r\n")


def write_eyepacs(raw: Path, patients: int = 40) -> Path:
    """Write both eyes of patients of grades from 0 to 4 in turn, a quarter for testing, of which half are public."""
    rows = {"trainLabels.csv": ["image,level"], "retinopathy_solution.csv": ["image,level,Usage"]}
    for patient in range(10, 10 + patients):
        test = patient % 4 == 0
        for eye in ("left", "right"):
            image = fundus(2 * patient + (eye == "right"), (60, 80))
            save(raw / ("test" if test else "train") / f"{patient}_{eye}.jpeg", Image.fromarray(image))
            usage = ("," + ("Public" if patient % 8 else "Private")) if test else ""
            file = "retinopathy_solution.csv" if test else "trainLabels.csv"
            rows[file].append(f"{patient}_{eye},{patient % 5}{usage}")
    for file, lines in rows.items():
        (raw / file).write_text("\n".join(lines) + "\n")
    return raw


def write_messidor(raw: Path, bases: Mapping[str, Mapping[str, int]] | None = None) -> Path:
    """Write bases with grades of Messidor: base -> image -> grade; eight images of each grade by default."""
    default = {base: {f"2005_{base}_{number}_PP": number % 4 for number in range(16)} for base in ("Base11", "Base22")}
    for base, grades in (bases or default).items():
        rows = ["Image name,Ophthalmologic department,Retinopathy grade,Risk of macular edema "]
        for number, (name, grade) in enumerate(grades.items()):
            save(raw / base / f"{name}.tif", Image.fromarray(fundus(number)))
            rows.append(f"{name}.tif,Service Ophtalmologie,{grade},0")
        (raw / f"Annotation_{base}.csv").write_text("\n".join(rows) + "\n")
    return raw
