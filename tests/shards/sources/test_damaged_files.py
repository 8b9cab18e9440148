"""Damaged files of users are read, or refused in one line that names the file; nothing else happens."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from random import Random

import numpy as np
import openpyxl
import pydicom
import pytest
from PIL import Image
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from damage import damaged
from uml_shards import ShardError
from uml_shards.importers import Options, find_importer
from uml_shards.sources.encode import encode_file
from uml_shards.sources.masks import read_mask
from uml_shards.sources.table import read_table
from uml_shards.sources.volume_files import read_volume
from uml_shards.write.writer import write_split
from volume_writers import anatomy, change_slices, save_hdf5, save_nifti, save_nrrd, save_series

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)


def picture(path: Path, mode: str = "RGB", **options: object) -> Path:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "described"
    given = options if path.suffix == ".bmp" else {"exif": exif, **options}
    Image.fromarray(PIXELS).convert(mode).save(path, **given)
    return path


def workbook(path: Path) -> Path:
    book = openpyxl.Workbook()
    for row in (("image", "label"), ("a.png", 1), ("b.png", 0)):
        book.worksheets[0].append(row)
    book.save(path)
    return path


def text(path: Path) -> Path:
    path.write_text('image,label\na.png,1\n"b,c.png",0\n')
    return path


def read_picture(path: Path) -> None:
    encode_file(path, 0, lossless=False)
    encode_file(path, 4, lossless=True)


FILES: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "a.nii": (lambda path: save_nifti(path, anatomy()), read_volume),
    "a.nii.gz": (lambda path: save_nifti(path, anatomy()), read_volume),
    "a.nrrd": (lambda path: save_nrrd(path, anatomy()), read_volume),
    "a.h5": (lambda path: save_hdf5(path, (1, 2, 3), image=anatomy()), read_volume),
    "a.jpg": (picture, read_picture),
    "p.jpg": (lambda path: picture(path, progressive=True), read_picture),
    "a.png": (picture, read_picture),
    "p.png": (lambda path: picture(path, "P"), lambda path: read_mask(path, "classes")),
    "a.tif": (picture, read_picture),
    "a.bmp": (picture, read_picture),
    "m.bmp": (lambda path: picture(path, "1"), lambda path: read_mask(path, "binary")),
    "a.csv": (text, read_table),
    "a.xlsx": (workbook, read_table),
}


def read_or_refuse(path: Path, read: Callable[[Path], object], damage: bytes) -> bool:
    """Read a file with other bytes, and return whether it is refused."""
    path.write_bytes(damage)
    try:
        read(path)
    except ShardError as error:
        message = str(error)
    else:
        return False
    assert str(path) in message
    assert "\n" not in message
    return True


@pytest.mark.parametrize("name", FILES)
def test_damaged_file_is_read_or_refused_in_one_line(tmp_path, name):
    write, read = FILES[name]
    write(tmp_path / name)
    data, random = (tmp_path / name).read_bytes(), Random(name)
    refused = [read_or_refuse(tmp_path / name, read, damaged(data, random)) for _ in range(100)]
    assert any(refused)


def test_every_byte_of_a_nifti_header_may_be_damaged(tmp_path):
    path = save_nifti(tmp_path / "a.nii", anatomy())
    data = path.read_bytes()
    refused = set()
    for place in range(352):
        for value in (0, 63, 127, 255):
            if read_or_refuse(path, read_volume, data[:place] + bytes([value]) + data[place + 1 :]):
                refused.add(place)
    assert {40, 70, 123, 254, 287, 344} <= refused  # dimensions, dtype, units, sform's code and row, magic


def test_damaged_slice_is_read_or_refused_in_one_line(tmp_path):
    folder = save_series(tmp_path / "series", anatomy())
    path, random = folder / "0_0.dcm", Random(0)
    data = path.read_bytes()

    def read(_: Path) -> None:
        try:
            read_volume(folder)
        except ShardError as error:
            raise ShardError(str(error).replace(f"{folder}:", f"{path}:").replace(f"{folder} ", f"{path} ")) from None

    assert any(read_or_refuse(path, read, damaged(data, random)) for _ in range(150))


@pytest.mark.parametrize(
    ("tag", "kind", "value", "reason"),
    [
        (0x00280008, "IS", b"1\\1 ", r"NumberOfFrames must be 1 number"),
        (0x00280008, "IS", b"one ", r"NumberOfFrames must be 1 number"),
        (0x00281053, "DS", b"nan ", r"RescaleSlope must be 1 number"),
        (0x00281053, "DS", b"0 ", r"RescaleSlope not 0"),
        (0x00281052, "DS", b"1\\2 ", r"RescaleIntercept must be 1 number"),
        (0x00280030, "DS", b"-1\\1", r"PixelSpacing must be positive"),
        (0x00280030, "DS", b"1 ", r"PixelSpacing must be 2 numbers"),
        (0x00280030, "DS", b"1\\mm", r"PixelSpacing must be 2 numbers"),
        (0x00200032, "DS", b"0\\inf\\0 ", r"ImagePositionPatient must be 3 numbers"),
        (0x00200037, "DS", b"2\\0\\0\\0\\1\\0 ", r"ImageOrientationPatient must be two perpendicular directions"),
        (0x00280010, "US", b"\6\0\6\0", r"Rows must be 1 number"),
        (0x00280301, "CS", b"NO\\YES", r"patient text in its pixels"),
    ],
)
def test_odd_values_of_tags_are_refused_in_one_line(tmp_path, tag, kind, value, reason):
    folder = save_series(tmp_path / "series", anatomy())
    path = folder / "0_0.dcm"
    found = pydicom.dcmread(path)
    found[tag] = RawDataElement(Tag(tag), kind, len(value), value, 0, False, True)
    found.save_as(path)
    with pytest.raises(ShardError, match=reason) as caught:
        read_volume(folder)
    assert str(caught.value).startswith(str(path))


def test_large_slopes_do_not_overflow(tmp_path):
    folder = save_series(tmp_path / "series", anatomy())
    change_slices(folder, RescaleSlope="1e17", RescaleIntercept="0")
    np.testing.assert_allclose(read_volume(folder).values, anatomy() * 1e17, rtol=1e-6)


def test_damaged_volumes_are_skipped(tmp_path):
    images = tmp_path / "raw" / "images"
    for number in range(5):
        save_nifti(images / f"{number}.nii", anatomy())
    for name, place, value in (("0.nii", 123, 63), ("1.nii", 254, 127), ("2.nii", 287, 127)):
        data = bytearray((images / name).read_bytes())
        data[place] = value
        (images / name).write_bytes(data)
    importer = find_importer("folder")(tmp_path / "raw", Options(settings={"val": "0", "test": "0", "keys": "names"}))
    source = importer.splits()["train"]
    manifest = write_split(importer, "train", source, tmp_path / "out", on_bad_sample="skip", quiet=True)
    assert manifest.samples == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"image,label,image \na,1,b\n", r"a\.csv has two columns 'image'"),
        ("image,label\nä,1\n".encode("utf-16"), r"a\.csv cannot be read: 'utf-8' codec"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(tmp_path, content, reason):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ShardError, match=reason):
        read_table(tmp_path / "a.csv")


def test_pictures_kept_unchanged_have_the_pixels_of_the_file(tmp_path):
    path, random = picture(tmp_path / "a.png"), Random(1)
    data = path.read_bytes()
    for _ in range(200):
        path.write_bytes(damaged(data, random))
        try:
            _, stored, _ = encode_file(path, 0, lossless=False)
            before = np.asarray(Image.open(path))
        except (ShardError, OSError, SyntaxError):
            continue
        np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(stored))), before)
