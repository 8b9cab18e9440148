"""Tests of removing metadata from files that are stored unchanged."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from uml_shards import ShardError
from uml_shards.sources.encode import encode_file
from uml_shards.sources.metadata import without_metadata

SECRET = b"Erika Mustermann"
VALUES = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def jpeg(mode="RGB", **options):
    exif = Image.Exif()
    exif[0x9286] = exif[0x010E] = SECRET.decode()  # user comment, description
    buffer = BytesIO()
    image = Image.fromarray(VALUES).convert(mode)
    image.save(buffer, "JPEG", exif=exif, comment=SECRET, xmp=b"<x>" + SECRET, icc_profile=SECRET * 9, **options)
    iptc = b"\xff\xed" + (2 + len(SECRET)).to_bytes(2, "big") + SECRET
    data = buffer.getvalue()
    return data[:2] + iptc + data[2:]


def png(mode="RGB"):
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", SECRET.decode())
    text.add_itxt("Patient", SECRET.decode(), zip=False)
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    buffer = BytesIO()
    Image.fromarray(VALUES).convert(mode).save(buffer, "PNG", pnginfo=text, exif=exif)
    return buffer.getvalue()


JPEGS = {
    "plain": jpeg(),
    "grey": jpeg("L"),
    "progressive": jpeg(progressive=True),
    "restart marks": jpeg(restart_marker_blocks=2, quality=100),
    "with a preview behind": jpeg() + jpeg(),
    "padded": jpeg().replace(b"\xff\xdb", b"\xff\xff\xff\xdb"),
    "with bytes between segments": jpeg().replace(b"\xff\xdb", b"\0\0" + SECRET + b"\xff\0\xff\xdb"),
    "with text behind": jpeg() + SECRET,
}
PNGS = {"colour": png(), "grey": png("L"), "16 bits": png("I;16"), "with text behind": png() + SECRET}
EVERY = [*((data, "jpg") for data in JPEGS.values()), *((data, "png") for data in PNGS.values())]


@pytest.mark.parametrize(("data", "extension"), EVERY, ids=[*JPEGS, *(f"png {name}" for name in PNGS)])
def test_metadata_are_removed_and_pixels_kept(data, extension):
    assert SECRET in data
    kept = without_metadata(data, extension)
    assert SECRET not in kept
    before, after = (Image.open(BytesIO(each)) for each in (data, kept))
    assert before.mode == after.mode
    np.testing.assert_array_equal(np.asarray(before), np.asarray(after))
    assert without_metadata(kept, extension) == kept


@given(which=st.sampled_from(EVERY[:1] + EVERY[2:3] + EVERY[-3:-2]), part=st.floats(0, 1, exclude_max=True))
def test_truncated_file_is_not_cut(which, part):
    data, extension = which
    kept = without_metadata(data, extension)
    assert without_metadata(kept[: int(part * len(kept))], extension) is None


def test_stored_images_contain_no_metadata(tmp_path):
    for name, data in {"a.JPEG": jpeg(), "b.png": png()}.items():
        (tmp_path / name).write_bytes(data)
        extension, stored, size = encode_file(tmp_path / name, 0, lossless=False)
        assert (extension, size) == ("jpg" if name == "a.JPEG" else "png", (40, 56))
        assert SECRET not in stored


def test_a_tiff_becomes_a_png(tmp_path):
    Image.fromarray(VALUES).save(tmp_path / "a.tif", description=SECRET.decode(), artist=SECRET.decode())
    extension, stored, _ = encode_file(tmp_path / "a.tif", 0, lossless=False)
    assert (extension, SECRET in stored) == ("png", False)
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(stored))), VALUES)


WITHOUT_END = {
    "a.jpg": lambda data: data.removesuffix(b"\xff\xd9"),
    "b.png": lambda data: data[:-12],
    "c.png": lambda data: data[:-6],
}


@pytest.mark.parametrize("name", WITHOUT_END)
def test_picture_without_its_end_marker_is_encoded_again(tmp_path, name):
    data = WITHOUT_END[name](jpeg(quality=95, subsampling=0) if name == "a.jpg" else png())
    (tmp_path / name).write_bytes(data + SECRET if name == "a.jpg" else data)
    _, stored, _ = encode_file(tmp_path / name, 0, lossless=True)
    assert SECRET not in stored
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(stored))), np.asarray(Image.open(tmp_path / name)))


@pytest.mark.parametrize("size", [0, 32])
def test_truncated_picture_is_refused_at_any_size(tmp_path, size):
    for name, data in (("a.jpg", jpeg()), ("b.png", png())):
        (tmp_path / name).write_bytes(data[: len(data) - 500])
        with pytest.raises(ShardError, match=rf"{name} cannot be read: "):
            encode_file(tmp_path / name, size, lossless=False)
