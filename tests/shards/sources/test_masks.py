"""Tests of reading mask files of every mode: each gives the right classes or a one-line error."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uml_shards import ShardError
from uml_shards.sources.masks import BLURRED, read_mask, resize_mask

DRAWN = (np.add.outer(np.arange(11) // 3, np.arange(14) // 4) % 3).astype(np.uint8)
BINARY = (DRAWN > 0).astype(np.uint8)
BLACK_RED_GREEN = [0, 0, 0, 200, 0, 0, 0, 200, 0]


def save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def with_palette(indices: np.ndarray, colours: list[int]) -> Image.Image:
    image = Image.fromarray(indices).convert("P")
    image.putdata(indices.ravel().tolist())
    image.putpalette(colours)
    return image


def with_alpha(colour: np.ndarray, alpha: np.ndarray | int) -> Image.Image:
    image = Image.fromarray(colour)
    image.putalpha(alpha if isinstance(alpha, int) else Image.fromarray(alpha))
    return image


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def overlay() -> np.ndarray:
    return np.stack([BINARY * 255, BINARY * 40, BINARY * 0], axis=2)


BINARY_MASKS = {
    "0 and 255": Image.fromarray(BINARY * 255),
    "0 and 1": Image.fromarray(BINARY),
    "1 bit": Image.fromarray(BINARY.astype(bool)),
    "palette": with_palette(BINARY, BLACK_RED_GREEN),
    "palette whose index 2 is black as well": with_palette(
        BINARY + 2 * (DRAWN == 0).astype(np.uint8), [0, 0, 0, 255, 255, 255, 0, 0, 0]
    ),
    "grey and alpha 255": with_alpha(BINARY * 255, 255),
    "RGB": Image.fromarray(rgb(BINARY * 255)),
    "RGBA, alpha 255": with_alpha(rgb(BINARY * 255), 255),
    "in the alpha only": with_alpha(rgb(BINARY * 0), BINARY * 255),
    "in the alpha only, on white": with_alpha(rgb(BINARY * 0 + 255), BINARY * 255),
    "coloured overlay": with_alpha(overlay(), BINARY * 128),
    "16 bits": Image.fromarray(BINARY.astype(np.uint16) * 65535),
}


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("what", BINARY_MASKS)
def test_binary_masks_of_every_mode(tmp_path, what, ending):
    found = read_mask(save(tmp_path / f"mask.{ending}", BINARY_MASKS[what]), "binary")
    np.testing.assert_array_equal(found, BINARY)
    assert found.dtype == np.uint8


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_mask_is_thresholded_at_half(tmp_path, mode):
    drawn = np.kron(BINARY, np.ones((16, 16), np.uint8))
    path = save(tmp_path / "mask.jpg", Image.fromarray(drawn * 255).convert(mode), quality=60)
    np.testing.assert_array_equal(read_mask(path, "binary"), drawn)


CLASS_MASKS = {
    "grey": Image.fromarray(DRAWN),
    "palette": with_palette(DRAWN, BLACK_RED_GREEN),
    "palette of any colours": with_palette(DRAWN, [9, 9, 9, 0, 0, 0, 255, 255, 255]),
    "grey and alpha 255": with_alpha(DRAWN, 255),
    "RGB": Image.fromarray(rgb(DRAWN)),
    "RGBA, alpha 255": with_alpha(rgb(DRAWN), 255),
    "16 bits": Image.fromarray(DRAWN.astype(np.uint16)),
}


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("what", CLASS_MASKS)
def test_class_numbers_of_every_mode(tmp_path, what, ending):
    found = read_mask(save(tmp_path / f"mask.{ending}", CLASS_MASKS[what]), "classes")
    np.testing.assert_array_equal(found, DRAWN)
    assert found.dtype == np.uint8


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_values_of_few_bits_are_not_stretched(tmp_path, bits):
    """Turn a palette PNG into a grey one by its header, since Pillow writes 2 and 4 bits only with a palette."""
    import zlib

    path = save(tmp_path / "mask.png", with_palette(DRAWN, list(range(3 * 2**bits))))
    data = bytearray(path.read_bytes())
    data[25] = 0
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    start = data.index(b"PLTE") - 4
    del data[start : start + 12 + int.from_bytes(data[start : start + 4], "big")]
    path.write_bytes(bytes(data))
    with Image.open(path) as image:
        assert image.mode == "L"
        assert np.asarray(image).max() == 2 * 255 // (2**bits - 1)
    np.testing.assert_array_equal(read_mask(path, "classes"), DRAWN)
    np.testing.assert_array_equal(read_mask(path, "nonzero"), BINARY)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize(
    ("values", "image", "options", "reason"),
    [
        ("binary", Image.fromarray(overlay()), {}, "the mask is in colour"),
        ("binary", with_alpha(rgb(BINARY * 255), (1 - BINARY) * 255), {}, "colour and alpha of the mask contradict"),
        ("binary", with_palette(BINARY, [255, 255, 255, 0, 0, 0]), {}, "index 0 of the mask's palette is not black"),
        ("binary", Image.fromarray(BINARY), {"format": "JPEG", "quality": 100}, "the JPEG mask has no value above 1"),
        ("binary", Image.fromarray(BINARY.astype(np.float32)), {"format": "TIFF"}, "mask mode F is not supported"),
        ("binary", Image.fromarray(BINARY), {"exif": turned()}, "the mask has an EXIF orientation"),
        ("classes", Image.fromarray(DRAWN), {"format": "JPEG"}, "JPEG does not preserve class numbers"),
        ("classes", with_alpha(rgb(DRAWN), BINARY * 255), {}, "some pixels of the mask are transparent"),
        ("classes", Image.fromarray(rgb(DRAWN) * np.array([1, 0, 0], np.uint8)), {}, "the mask is in colour"),
        ("classes", Image.fromarray(DRAWN.astype(np.uint16) * 300), {}, "mask value 600 is not a class"),
        ("classes", Image.fromarray(DRAWN.astype(np.int32)), {"format": "TIFF"}, "mask mode I is not supported"),
    ],
)
def test_ambiguous_masks_are_refused(tmp_path, values, image, options, reason):
    path = save(tmp_path / "mask.png", image, **options)
    with pytest.raises(ShardError, match=reason) as caught:
        read_mask(path, values)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_resizing_creates_no_new_classes():
    found = resize_mask(DRAWN * 100, (23, 9))
    assert found.shape == (23, 9)
    assert set(np.unique(found)) <= {0, 100, 200}


def test_blurred_masks_of_any_format_are_cut_and_noted(tmp_path):
    drawn = np.kron(BINARY, np.ones((21, 21), np.uint8))
    with Image.open(save(tmp_path / "mask.jpg", Image.fromarray(drawn * 255), quality=60)) as noisy:
        grey = np.asarray(noisy)
    for name, image in {
        "mask.jpg": Image.fromarray(drawn * 255),
        "grey.png": Image.fromarray(grey),
        "palette.png": with_palette(grey, [value for value in range(256) for _ in range(3)]),
        "alpha.png": with_alpha(rgb(grey * 0), grey),
    }.items():
        notes = []
        path = save(tmp_path / name, image, **({"quality": 60} if name == "mask.jpg" else {}))
        found = read_mask(path, "binary", note=notes.append)
        np.testing.assert_array_equal(found, drawn, err_msg=name)
        assert notes == [BLURRED]


def test_colours_of_a_palette_are_different_classes(tmp_path):
    path = save(tmp_path / "mask.png", with_palette(DRAWN, BLACK_RED_GREEN))
    with pytest.raises(ShardError, match="has 0, 1, 2: for class numbers use mask_values=classes"):
        read_mask(path, "binary")
    np.testing.assert_array_equal(read_mask(path, "nonzero"), BINARY)


@pytest.mark.parametrize("place", [(0, 0), (1, 1), (2, 3), (3, 2)])
def test_covered_share_keeps_lesions_that_nearest_loses(place):
    """A lesion of 3 x 3 pixels anywhere in blocks of 4 x 4 covers at least 0.14 of one of them."""
    mask = np.zeros((32, 32), np.uint8)
    mask[8 + place[0] : 11 + place[0], 12 + place[1] : 15 + place[1]] = 1
    shares = mask.reshape(8, 4, 8, 4).mean(axis=(1, 3))
    np.testing.assert_array_equal(resize_mask(mask, (8, 8), cover=0.1), shares >= 0.1)
    assert resize_mask(mask, (8, 8), cover=0.1).any()


def test_covered_share_decides_between_classes():
    mask = np.zeros((4, 8), np.uint8)
    mask[:, :2], mask[:, 2], mask[:, 4:] = 1, 2, 255
    mask[:, 4] = 2
    np.testing.assert_array_equal(resize_mask(mask, (1, 2), cover=0.2), [[1, 255]])
    np.testing.assert_array_equal(resize_mask(mask, (1, 2), cover=0.6), [[0, 255]])
