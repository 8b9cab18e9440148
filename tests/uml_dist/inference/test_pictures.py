"""Image files are prepared as the importers prepare them, and refused where they are not like the training data."""

import numpy as np
import pytest
from PIL import Image

from uml_dist.inference.reading import read
from uml_dist.inference.sources import find_sources
from uml_dist.inference.trained import Prepared, Trained
from uml_shards import ShardError, open_split
from uml_shards.importers import Options
from uml_shards.importers.folder import Folder
from uml_shards.write.writer import write_split

COLOUR = Trained("small", 2, 3, "folder", Prepared(size=0, channels="rgb"))
GREY = Trained("small", 2, 1, "folder", Prepared(size=0, channels="grey"))
STRICT = Trained("small", 2, 3, "isic2017", Prepared(size=0))


def noise(height=30, width=40, channels=3):
    smooth = np.random.default_rng(0).integers(0, 255, (height // 5, width // 5, channels), dtype=np.uint8)
    return np.asarray(Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC))


def read_file(path, trained=COLOUR):
    return read(find_sources([path]).sources[0], trained, picture=True)


@pytest.mark.parametrize("size", [0, 16])
@pytest.mark.parametrize("name", ["a.png", "b.jpg", "turned.jpg", "cmyk.jpg", "palette.png", "grey.png"])
def test_image_equals_the_one_that_the_importer_stores(tmp_path, name, size):
    images = tmp_path / "raw" / "images"
    images.mkdir(parents=True)
    picture, exif = Image.fromarray(noise()), Image.Exif()
    exif[0x0112] = 6
    mode = {"cmyk.jpg": "CMYK", "palette.png": "P", "grey.png": "L"}.get(name, "RGB")
    picture.convert(mode).save(images / name, **({"exif": exif} if name == "turned.jpg" else {}))
    options = Options(size=size, settings={"val": "0", "test": "0", "classes": "x,y"})
    importer = Folder(tmp_path / "raw", options)
    write_split(importer, "train", importer.splits()["train"], tmp_path / "shards", quiet=True)
    trained = Trained("small", 2, 3, "folder", Prepared.model_validate(importer.manifest_options))
    ready = read_file(images / name, trained)
    assert np.array_equal(ready.image, open_split(tmp_path / "shards").read(0).image)
    assert ready.geometry.shape == ((40, 30) if name == "turned.jpg" else (30, 40))
    assert ready.picture.shape[:2] == ready.geometry.shape


def test_sixteen_bits_keep_every_value(tmp_path):
    values = (np.arange(1200, dtype=np.uint16) * 50).reshape(30, 40)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert np.array_equal(read_file(tmp_path / name, GREY).image[..., 0], values)


def test_turned_image_as_stored_if_the_training_was(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise()).save(tmp_path / "a.jpg", exif=exif)
    stored = Trained("small", 2, 3, "folder", Prepared(size=0, channels="rgb", exif="stored"))
    assert read_file(tmp_path / "a.jpg", stored).geometry.shape == (30, 40)


def save(path, mode):
    if mode == "16":
        Image.fromarray(np.zeros((4, 4), np.uint16)).save(path)
    else:
        Image.fromarray(noise()).convert(mode).save(path)


@pytest.mark.parametrize(
    ("mode", "trained", "message"),
    [
        ("L", STRICT, r"has 1 channel \(grey\), but run small was trained on images of 3 channels \(colour\)"),
        ("16", COLOUR, r"has 1 channel \(16-bit grey\), but run small was trained on images of 3 channels \(colour\)"),
        ("RGB", GREY, r"has 3 channels \(colour\), but run small was trained on images of 1 channel \(grey\)"),
        ("RGBA", COLOUR, None),
        ("L", Trained("v", 3, 1, "folder", Prepared()), "is an image, but run v was trained on volumes of 1 channel"),
    ],
)
def test_image_of_other_channels_is_refused_with_both_named(tmp_path, mode, trained, message):
    save(tmp_path / "a.png", mode)
    if message is None:
        assert read_file(tmp_path / "a.png", trained).image.shape == (30, 40, 3)
        return
    with pytest.raises(ShardError, match=message):
        read_file(tmp_path / "a.png", trained)


def test_colour_image_without_colours_is_grey(tmp_path):
    Image.fromarray(noise(channels=3)).convert("L").convert("RGB").save(tmp_path / "a.png")
    assert read_file(tmp_path / "a.png", GREY).image.shape == (30, 40, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "a.png is empty"), (b"\x89PNG\r\n", "a.png cannot be read: it is not a PNG"), (None, "leads nowhere")],
)
def test_damaged_file_is_one_line(tmp_path, data, message):
    path = tmp_path / "a.png"
    if data is None:
        path.symlink_to(tmp_path / "absent.png")
    else:
        path.write_bytes(data)
    with pytest.raises(ShardError, match=message):
        read_file(path)


def test_photograph_of_the_fundus_is_cropped_to_the_retina_and_maps_fit_the_photograph(tmp_path):
    rows, columns = np.indices((100, 160))
    disc = (rows - 50) ** 2 + (columns - 90) ** 2 < 40**2
    Image.fromarray((disc[..., None] * np.array([200, 90, 40])).astype(np.uint8)).save(tmp_path / "eye.png")
    trained = Trained("eyes", 2, 3, "eyepacs", Prepared(size=40, crop="retina", lossless=True))
    ready = read_file(tmp_path / "eye.png", trained)
    assert ready.image.shape == (40, 40, 3)
    import torch

    bright = torch.from_numpy((ready.image[..., 0] > 100).astype(np.uint8))
    restored = ready.geometry.restore_classes(bright)
    assert restored.shape == (100, 160)
    assert (restored != disc).mean() < 0.02
