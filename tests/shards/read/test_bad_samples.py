"""Tests of every kind of bad sample in a real tar: a one-line error with shard, key and reason, or a placeholder."""

import os
from collections import Counter
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from broken_shards import swap_tar, write_plain
from raw_png import raw_png
from uml_shards import ShardError, open_split
from uml_shards.format.index import BLOCK
from uml_shards.importers import Options
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.read.loader import load
from uml_shards.read.plan import InOrder
from uml_shards.read.stream import Stream
from uml_shards.sources.encode import encode_grey, encode_image
from uml_shards.write.verify import verify
from uml_shards.write.writer import write_split

SIDE = 24
SAMPLES = 5
BAD = 3
NAMES = {"classes": ("benign", "malignant"), "mask_classes": ("background", "lesion")}


def picture(number, kind="jpg"):
    values = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return encode_image(values, lossless=kind == "png")[1]


def good(number):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[number:, :number] = 1
    return {"jpg": picture(number), "json": b'{"label": 1}', "mask.png": encode_grey(mask)}


def png(values, mode):
    buffer = BytesIO()
    Image.fromarray(values).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def flipped(data, place):
    changed = bytearray(data)
    changed[place] ^= 0x55
    return bytes(changed)


ZEROS = np.zeros((SIDE, SIDE), np.uint8)


BOMB = raw_png(100_000, 100_000, 8, 0, bytes(10_000))

BROKEN = {
    "jpeg cut": ({"jpg": picture(BAD)[:-30]}, "image", "jpg: cannot be read"),
    "jpeg without a head": ({"jpg": picture(BAD)[20:]}, "image", "jpg: cannot be read"),
    "png with a flipped byte": (
        {"jpg": None, "png": flipped(picture(BAD, "png"), 400)},
        "image",
        "png: cannot be read",
    ),
    "no image": ({"jpg": None, "tiff": None, "txt": b"x"}, "image", "none is present: found json, mask.png"),
    "a bomb": ({"jpg": None, "png": BOMB}, "image", "png: 100000x100000 exceeds the limit"),
    "grey among colours": (
        {"jpg": encode_image(ZEROS, False)[1]},
        "image",
        "image has 1 channel, the manifest states 3",
    ),
    "an image of another size": (
        {"jpg": encode_image(np.zeros((8, 9, 3), np.uint8), False)[1]},
        "image",
        "image is 8x9",
    ),
    "16 bits in a palette of colours": (
        {"jpg": None, "png": png(ZEROS, "P")},
        "image",
        "image mode P is not supported",
    ),
    "no mask": ({"mask.png": None}, "mask", "component mask.png is missing"),
    "a mask of another size": ({"mask.png": encode_grey(ZEROS[1:])}, "mask", "mask.png: mask is 23x24, image is 24x24"),
    "a mask value that is not a class": ({"mask.png": encode_grey(ZEROS + 2)}, "mask", "value 2 is out of range"),
    "a mask with a palette": ({"mask.png": png(ZEROS, "P")}, "mask", "must be an 8-bit grey PNG"),
    "a mask with alpha": ({"mask.png": png(ZEROS, "RGBA")}, "mask", "must be an 8-bit grey PNG"),
    "a mask in 16 bits": (
        {"mask.png": encode_image(ZEROS.astype(np.uint16), True)[1]},
        "mask",
        "must be an 8-bit grey PNG",
    ),
    "a label that is not a class": ({"json": b'{"label": 2}'}, "label", "label 2 is out of range: 2 classes"),
    "a label in words": ({"json": b'{"label": "benign"}'}, "label", "label 'benign' is out of range"),
    "no label": ({"json": b"{}"}, "label", "the label is missing"),
    "json cut": ({"json": b'{"label": '}, "label", "json: cannot be read: EOF while parsing a value"),
}


def stream_of(folder, on_bad_sample, verify="first-use"):
    split = open_split(folder, verify=verify)
    return Stream(split, InOrder(SAMPLES), (SIDE, SIDE), split.manifest.statistics, on_bad_sample=on_bad_sample)


@pytest.fixture
def sound(tmp_path):
    return write_plain(tmp_path / "train", [good(number) for number in range(SAMPLES)], **NAMES)


@pytest.mark.parametrize("kind", BROKEN)
def test_bad_sample_is_a_one_line_error_or_a_counted_placeholder(sound, kind):
    change, reason, words = BROKEN[kind]
    samples = [good(number) for number in range(SAMPLES)]
    samples[BAD] = {name: data for name, data in {**samples[BAD], **change}.items() if data is not None}
    if kind == "no image":
        with pytest.raises(ShardError, match=words):
            swap_tar(sound, samples)  # such a tar cannot be indexed
        return
    swap_tar(sound, samples)
    with pytest.raises(ShardError) as caught:
        stream_of(sound, "error").sample(BAD)
    line = str(caught.value)
    assert line.startswith(f"{sound}/a.tar: sample case-{BAD}: ")
    assert words in line
    assert "\n" not in line
    skipping = stream_of(sound, "skip")
    placeholder = skipping.sample(BAD)
    assert (placeholder.weight, placeholder.label, placeholder.meta) == (0.0, None, {"skipped": line, "reason": reason})
    assert (placeholder.mask == 255).all()
    assert [skipping.sample(number).key for number in range(SAMPLES) if number != BAD] == [
        f"case-{number}" for number in range(SAMPLES) if number != BAD
    ]
    assert any(f"case-{BAD}" in problem or "sha256" in problem for problem in verify(sound, quiet=True))


def test_tar_that_changed_after_indexing_is_detected(sound):
    split = open_split(sound)
    tar = sound / "a.tar"
    base = int(split._indices[0][BAD]["base"])
    for place in (base + 1, base + 130, base + 260):  # name, size and magic in the header of the first component
        data = tar.read_bytes()
        tar.write_bytes(flipped(data, place))
        with pytest.raises(ShardError, match=r"a\.tar: .*: verify the shard") as caught:
            stream_of(sound, "error", "never").sample(BAD)
        assert caught.value.reason == "tar"
        assert stream_of(sound, "skip", "never").sample(BAD).meta["reason"] == "tar"
        tar.write_bytes(data)


@pytest.mark.parametrize("part", range(9))
def test_tar_truncated_after_opening_never_gives_a_partial_sample(sound, part):
    stream = stream_of(sound, "error")
    stream.sample(0)
    tar = sound / "a.tar"
    row = stream.split._indices[0][SAMPLES - 1]
    start, end = int(row["base"]), int(row["base"]) + int((row["start"] + row["size"]).max())
    os.truncate(
        tar,
        [start - BLOCK, start, start + 100, start + BLOCK, *np.linspace(start + BLOCK, end - 1, 5, dtype=int)][part],
    )
    with pytest.raises(ShardError, match=r"a\.tar: ") as caught:
        stream.sample(SAMPLES - 1)
    assert caught.value.reason == "tar"


def test_unreadable_tar_is_skipped_and_the_rest_is_loaded(tmp_path):
    importer = PhantomImporter(None, Options(size=16, counts={"train": 200, "val": 0, "test": 0}))
    write_split(importer, "train", importer.splits()["train"], tmp_path, samples_per_shard=1, quiet=True)
    split = open_split(tmp_path)
    bad = 117
    (tmp_path / split.manifest.shards[bad].name).unlink()
    stream = Stream(split, InOrder(200), (16, 16), split.manifest.statistics, on_bad_sample="skip")
    requests = [{"": list(range(start, start + 20))} for start in range(0, 200, 20)]
    batches = load({"": stream}, requests, lambda stream, samples, positions: samples)
    samples = [sample for batch in batches for sample in batch[""]]
    assert [number for number, sample in enumerate(samples) if not sample.weight] == [bad]
    assert "cannot be read: No such file" in samples[bad].meta["skipped"]
    assert Counter(sample.meta["reason"] for sample in samples if "reason" in sample.meta) == {"tar": 1}
