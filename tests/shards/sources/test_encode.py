"""Tests of encoding raw image files of every mode: each is stored without loss or refused with a one-line error."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from raw_tiff import raw_tiff
from uml_shards import ShardError
from uml_shards.format.picture import decode_image
from uml_shards.sources.encode import encode_file, encode_opened
from uml_shards.sources.raw import open_raw, upright_size

GREY = np.arange(0, 240, 8, dtype=np.uint8).reshape(5, 6)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=2)
SIXTEEN = GREY.astype(np.uint16) * 271


def save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def stored(path: Path, size: int = 0, **options) -> np.ndarray:
    """Encode a file and return the decoded image."""
    extension, data, shape = encode_opened(open_raw(path), path, size, lossless=True, **options)
    image = decode_image(data, extension)
    assert image.shape[:2] == shape
    return image


def opaque(image: Image.Image) -> Image.Image:
    image.putalpha(255)
    return image


def palette() -> Image.Image:
    return Image.fromarray(COLOUR).quantize(30)


IMAGES = {
    "L": (Image.fromarray(GREY), GREY[..., None]),
    "RGB": (Image.fromarray(COLOUR), COLOUR),
    "1": (Image.fromarray(GREY > 100), np.where(GREY > 100, 255, 0)[..., None]),
    "LA": (opaque(Image.fromarray(GREY)), GREY[..., None]),
    "RGBA": (opaque(Image.fromarray(COLOUR)), COLOUR),
    "P": (palette(), np.asarray(palette().convert("RGB"))),
    "I;16": (Image.fromarray(SIXTEEN), SIXTEEN[..., None]),
}


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        *((mode, ending) for mode in IMAGES for ending in ("png", "tif", "TIFF")),
        *((mode, "bmp") for mode in IMAGES if mode not in ("LA", "I;16")),
    ],
)
def test_every_mode_is_stored_without_visible_change(tmp_path, mode, ending):
    image, expected = IMAGES[mode]
    found = stored(save(tmp_path / f"image.{ending}", image))
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == (np.uint16 if mode == "I;16" else np.uint8)


@pytest.mark.parametrize("mode", IMAGES)
def test_every_mode_is_resized(tmp_path, mode):
    flat = Image.new(mode, (9, 7), IMAGES[mode][0].getpixel((3, 3)))
    if mode == "P":
        flat.putpalette(IMAGES[mode][0].getpalette())
    path = save(tmp_path / "image.png", flat)
    found = stored(path, size=4)
    assert found.shape[:2] == (4, 4)
    np.testing.assert_array_equal(found, np.broadcast_to(IMAGES[mode][1][3, 3], found.shape))


def test_sixteen_bits_are_resized_without_losing_their_range(tmp_path):
    ramp = np.repeat(np.arange(64, dtype=np.uint16) * 1000, 64).reshape(64, 64)
    found = stored(save(tmp_path / "image.png", Image.fromarray(ramp)), size=32)
    assert found.dtype == np.uint16
    # Each new row is the mean of two old ones, except at the borders.
    np.testing.assert_allclose(found[4:-4, 3, 0], ramp[8:-8, 0].reshape(-1, 2).mean(1), atol=1)


def test_a_cmyk_jpeg_becomes_rgb(tmp_path):
    path = save(tmp_path / "image.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)))
    found = stored(path)
    assert found.shape == (8, 8, 3)
    np.testing.assert_allclose(found[4, 4], (255, 0, 0), atol=4)


@pytest.mark.parametrize("channels", [None, 1])
def test_source_bytes_are_kept_regardless_of_the_extension(tmp_path, channels):
    path = save(tmp_path / "image.PNG", Image.fromarray(GREY), format="JPEG")
    extension, data, shape = encode_opened(open_raw(path), path, 0, False, channels)
    assert (extension, data, shape) == ("jpg", path.read_bytes(), (5, 6))


def test_a_lossless_file_that_keeps_its_size_loses_nothing(tmp_path):
    extension, data, _ = encode_file(save(tmp_path / "image.bmp", Image.fromarray(COLOUR)), 0, lossless=False)
    assert extension == "png"
    np.testing.assert_array_equal(decode_image(data, "png"), COLOUR)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tif", "jpg"])
def test_image_is_turned_upright(tmp_path, orientation, ending):
    drawn = np.zeros((32, 48), np.uint8)
    drawn[:16, :16] = 255  # one corner, so that all eight orientations differ
    drawn[:16, 16:32] = 100
    # Orientations of the EXIF standard: the position of the file's first row and first column.
    lies = {
        1: drawn,
        2: drawn[:, ::-1],
        3: drawn[::-1, ::-1],
        4: drawn[::-1],
        5: drawn.T,
        6: np.rot90(drawn, 1),
        7: drawn[::-1, ::-1].T,
        8: np.rot90(drawn, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"image.{ending}", Image.fromarray(np.ascontiguousarray(lies)), exif=exif)
    assert upright_size(open_raw(path), path) == (32, 48)
    found = stored(path, upright=True)[..., 0]
    assert found.shape == (32, 48)
    assert np.abs(found.astype(int) - drawn).mean() < 2  # JPEG blurs the corner
    small = stored(path, size=16, upright=True)[..., 0]
    assert small[2, 1] > 200
    assert 80 < small[2, 8] < 120
    assert small[12, 12] < 50


def test_grey_becomes_rgb_and_equal_channels_become_grey(tmp_path):
    grey = save(tmp_path / "grey.png", Image.fromarray(GREY))
    np.testing.assert_array_equal(stored(grey, channels=3), np.repeat(GREY[..., None], 3, axis=2))
    equal = save(tmp_path / "equal.png", Image.fromarray(GREY).convert("RGB"))
    np.testing.assert_array_equal(stored(equal, channels=1), GREY[..., None])
    colour = save(tmp_path / "colour.png", Image.fromarray(COLOUR))
    with pytest.raises(ShardError, match=r"colour\.png: the image is in colour, but channels=grey is set"):
        stored(colour, channels=1)
    sixteen = save(tmp_path / "sixteen.png", Image.fromarray(SIXTEEN))
    with pytest.raises(ShardError, match=r"sixteen\.png: 16-bit grey cannot be converted to RGB"):
        stored(sixteen, channels=3)


def transparent(mode: str) -> Image.Image:
    image = Image.fromarray(COLOUR).convert(mode)
    image.putalpha(Image.fromarray(np.where(GREY > 200, 0, 255).astype(np.uint8)))
    return image


def transparent_palette(path: Path) -> Path:
    return save(path.with_suffix(".png"), palette(), transparency=int(np.asarray(palette())[0, 0]))


def sixteen_bit_png(path: Path, colour_type: int = 2) -> Path:
    """Write an RGB or RGBA PNG of 16 bits, which Pillow can read but not write."""
    import zlib

    channels = {2: 3, 6: 4, 4: 2}[colour_type]
    rows = b"".join(b"\0" + b"\x12\x34" * 4 * channels for _ in range(4))
    buffer = BytesIO(b"")
    buffer.write(b"\x89PNG\r\n\x1a\n")
    PngImagePlugin.putchunk(buffer, b"IHDR", b"\0\0\0\4\0\0\0\4" + bytes([16, colour_type, 0, 0, 0]))
    PngImagePlugin.putchunk(buffer, b"IDAT", zlib.compress(rows))
    PngImagePlugin.putchunk(buffer, b"IEND", b"")
    path = path.with_suffix(".png")
    path.write_bytes(buffer.getvalue())
    return path


def tiff(path: Path, values: np.ndarray, photometric: int) -> Path:
    path = path.with_suffix(".tif")
    path.write_bytes(raw_tiff(values, photometric))
    return path


def pages(path: Path, ending: str) -> Path:
    return save(
        path.with_suffix(ending), Image.fromarray(COLOUR), save_all=True, append_images=[Image.fromarray(COLOUR // 2)]
    )


REFUSED = {
    "transparent RGBA": (
        lambda path: save(path.with_suffix(".png"), transparent("RGB")),
        "some pixels are transparent",
    ),
    "transparent LA": (lambda path: save(path.with_suffix(".png"), transparent("L")), "some pixels are transparent"),
    "transparent palette": (transparent_palette, "some pixels are transparent"),
    "16-bit RGB PNG": (sixteen_bit_png, "16-bit colour"),
    "16-bit RGBA PNG": (lambda path: sixteen_bit_png(path, 6), "16-bit colour"),
    "16-bit grey and alpha PNG": (lambda path: sixteen_bit_png(path, 4), "16-bit colour"),
    "16-bit RGB TIFF": (lambda path: tiff(path, COLOUR, 2), "16-bit colour"),
    "16-bit TIFF, 0 is white": (lambda path: tiff(path, SIXTEEN, 0), "0 is white"),
    "32-bit integers": (
        lambda path: save(path.with_suffix(".tif"), Image.new("I", (4, 4))),
        "image mode I is not supported",
    ),
    "floats": (lambda path: save(path.with_suffix(".tif"), Image.new("F", (4, 4))), "image mode F is not supported"),
    "Lab": (lambda path: save(path.with_suffix(".tif"), Image.new("LAB", (4, 4))), "image mode LAB is not supported"),
    "TIFF of two pages": (lambda path: pages(path, ".tif"), "contains 2 pages"),
    "animated PNG": (lambda path: pages(path, ".png"), "contains 2 pages"),
    "another format": (
        lambda path: save(path.with_suffix(".png"), Image.fromarray(COLOUR), format="GIF"),
        "is not a PNG, JPEG",
    ),
}


@pytest.mark.parametrize("size", [0, 3])
@pytest.mark.parametrize("what", REFUSED)
def test_lossy_conversions_are_refused_in_one_line(tmp_path, what, size):
    make, reason = REFUSED[what]
    path = make(tmp_path / "image")
    with pytest.raises(ShardError, match=reason) as caught:
        encode_file(path, size, lossless=False)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_valid_sixteen_bit_tiff_is_read_unchanged(tmp_path):
    """Check the valid counterpart of the refused TIFF files."""
    np.testing.assert_array_equal(stored(tiff(tmp_path / "image", SIXTEEN, 1))[..., 0], SIXTEEN)


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "bmp"])
def test_damaged_files_are_reported_in_one_line(tmp_path, ending):
    path = save(tmp_path / f"image.{ending}", Image.fromarray(np.tile(COLOUR, (9, 9, 1))))
    whole = path.read_bytes()
    for length in (0, 10, 60, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(ShardError, match=r"cannot be read") as caught:
            encode_file(path, 16, lossless=False)
        assert "\n" not in str(caught.value)
