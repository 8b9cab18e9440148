"""Tests of reading patches of volumes: same voxels as in the volume, and only the patch is read."""

import os
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broken_shards import swap_tar, write_plain
from uml_shards import ShardError, open_split
from uml_shards.format.volume import encode_volume
from uml_shards.importers import Importer, Source
from uml_shards.read.plan import Plan
from uml_shards.read.stream import Stream
from uml_shards.sources.encode import encode_json
from uml_shards.write.verify import verify
from uml_shards.write.writer import write_split

SHAPES = ((9, 7, 5), (4, 12, 6), (5, 5, 5))


class Volumes(Importer):
    """Volumes of three shapes; the third has no mask."""

    name = summary = licence = source = where = tree = "volumes"
    default_size = 0
    needs_raw = False
    dtype = "<f4"

    def splits(self):
        return {"train": Source(range(len(SHAPES)), classes=("a", "b"), mask_classes=("background", "tumour"))}

    def encode(self, item):
        image, mask = voxels(item, self.dtype)
        components = {"npy": encode_volume(image), "json": encode_json(item % 2, {"spacing": [1.0, 1.0, 2.0]})}
        return f"case-{item}", components | ({"mask.npy": encode_volume(mask)} if item < 2 else {})


def voxels(item, dtype="<f4"):
    """An image, and a mask that is 1 where the image is even."""
    shape = SHAPES[item]
    image = (1000 * item + np.arange(np.prod(shape)).reshape(shape)).astype(dtype)
    return image, (image % 2 == 0).astype(np.uint8)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes") / "train"
    write_split(Volumes(), "train", Volumes().splits()["train"], folder, quiet=True)
    return open_split(folder)


def number_of(split, item):
    return split.keys().index(f"case-{item}")


def test_volume_split_has_a_correct_manifest_and_verifies(split):
    manifest = split.manifest
    assert (manifest.dimensions, manifest.size, manifest.channels, manifest.masked) == (3, None, 1, 2)
    assert manifest.components == ("json", "mask.npy", "npy")
    every = np.concatenate([voxels(item)[0].ravel() for item in range(3)])
    np.testing.assert_allclose(manifest.statistics.mean, every.mean(dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(manifest.statistics.std, every.std(dtype=np.float64), rtol=1e-12)
    assert verify(split.path, quiet=True) == []
    for item in range(3):
        image, mask = voxels(item)
        sample = split.read(number_of(split, item))
        np.testing.assert_array_equal(sample.image[..., 0], image)
        assert (sample.mask is None) if item == 2 else np.array_equal(sample.mask, mask)
        assert sample.meta == {"spacing": [1.0, 1.0, 2.0]}


@given(
    item=st.integers(0, 2),
    size=st.tuples(*[st.integers(1, 14)] * 3),
    place=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3),
)
def test_patch_equals_the_same_region_of_the_volume(split, item, size, place):
    sample = split.read_patch(number_of(split, item), size, place)
    image, mask = voxels(item)
    sides = list(zip(size, image.shape, place, strict=True))
    around = [(max(wanted - side, 0) // 2, -(-max(wanted - side, 0) // 2)) for wanted, side, _ in sides]
    corner = [int(at * (max(side - wanted, 0) + 1)) for wanted, side, at in sides]
    part = tuple(slice(first, first + wanted) for first, wanted in zip(corner, size, strict=True))
    np.testing.assert_array_equal(sample.image[..., 0], np.pad(image, around, mode="edge")[part])
    if item < 2:
        np.testing.assert_array_equal(sample.mask, np.pad(mask, around, constant_values=255)[part])
    else:
        assert sample.mask is None
    assert (sample.key, sample.label) == (f"case-{item}", item % 2)


def test_every_corner_can_be_drawn(split):
    number = number_of(split, 0)
    corners = {
        float(split.read_patch(number, (8, 7, 5), (place, 0.0, 0.0)).image[0, 0, 0, 0])
        for place in (0.0, 0.49, 0.5, 0.999)
    }
    assert corners == {0.0, 35.0}


def test_reading_a_patch_reads_little_more_than_the_patch(split, tmp_path, monkeypatch):
    class Large(Volumes):
        def encode(self, item):
            image = np.zeros((64, 64, 64), np.float32)
            mask = encode_volume(image.astype(np.uint8))
            return "large", {"npy": encode_volume(image), "mask.npy": mask, "json": encode_json(None)}

    write_split(Large(), "train", Source((0,), mask_classes=("background", "tumour")), tmp_path, quiet=True)
    large = open_split(tmp_path)
    read = []
    for name in ("pread", "preadv"):
        real = getattr(os, name)

        def counted(*arguments, real=real):
            result = real(*arguments)
            read.append(result if isinstance(result, int) else len(result))
            return result

        monkeypatch.setattr(os, name, counted)
    sample = large.read_patch(0, (16, 16, 64), (0.5, 0.5, 0.0))
    patch = sample.image.nbytes + sample.mask.nbytes
    assert patch <= sum(read) < 1.1 * patch
    assert sum(read) < 0.1 * (64**3 * 5)


def test_patches_of_several_channels_and_of_integers(tmp_path):
    class Channels(Volumes):
        def encode(self, item):
            image = np.arange(4 * 5 * 6 * 2, dtype=np.int16).reshape(4, 5, 6, 2)
            return f"case-{item}", {"npy": encode_volume(image), "json": encode_json(None)}

    write_split(Channels(), "train", Source((0,)), tmp_path, quiet=True)
    split = open_split(tmp_path)
    assert (split.manifest.channels, split.manifest.size) == (2, (4, 5, 6))
    assert split.manifest.statistics.mean == (119.0, 120.0)
    np.testing.assert_array_equal(
        split.read_patch(0, (2, 2, 2), (0.99, 0.99, 0.99)).image,
        np.arange(240, dtype=np.int16).reshape(4, 5, 6, 2)[2:, 3:, 4:],
    )


@pytest.mark.parametrize(
    ("broken", "reason", "kind"),
    [
        ({"npy": encode_volume(np.full((4, 4, 4), np.nan, np.float32))}, "NaN or infinite", "image"),
        ({"npy": encode_volume(np.zeros((4, 4, 4, 2), np.float32))}, "image has 2 channels", "image"),
        ({"mask.npy": encode_volume(np.zeros((4, 4, 5), np.uint8))}, "mask.npy: mask is 4x4x5, image is 4x4x4", "mask"),
        ({"mask.npy": encode_volume(np.full((4, 4, 4), 7, np.uint8))}, "mask.npy: value 7 is out of range", "mask"),
        ({"json": b"[]"}, "json: must be an object", "label"),
        ({"npy": b"\x80\x04K\x01.", "mask.npy": None}, "not a .npy file of version 1.0", "image"),
    ],
)
def test_bad_volumes_name_shard_key_and_reason(tmp_path, broken, reason, kind):
    good = {
        "json": b"{}",
        "npy": encode_volume(np.ones((4, 4, 4), np.float32)),
        "mask.npy": encode_volume(np.ones((4, 4, 4), np.uint8)),
    }
    write_plain(tmp_path, [good])
    swap_tar(tmp_path, [{name: data for name, data in {**good, **broken}.items() if data is not None}])
    split = open_split(tmp_path)
    for read in (lambda: split.read(0), lambda: split.read_patch(0, (4, 4, 4), (0, 0, 0))):
        with pytest.raises(ShardError, match=reason) as caught:
            read()
        assert caught.value.reason == kind
        assert str(caught.value).startswith(f"{tmp_path}/a.tar: sample case-0: ")


def test_images_and_volumes_in_one_split_are_refused(tmp_path):
    class Mixed(Volumes):
        def encode(self, item):
            from uml_shards.sources.encode import encode_image

            if item:
                return super().encode(item)
            extension, data = encode_image(np.zeros((4, 4), np.uint8), lossless=True)
            return "flat", {extension: data, "json": encode_json(0)}

    with pytest.raises(ShardError, match="images and volumes in one split"):
        write_split(Mixed(), "train", Volumes().splits()["train"], tmp_path, quiet=True)


def test_volumes_of_signed_and_unsigned_dtypes_in_one_split_are_refused(tmp_path):
    class Mixed(Volumes):
        def encode(self, item):
            image, _ = voxels(item, "<u2" if item else "<f4")
            return f"case-{item}", {"npy": encode_volume(image), "json": encode_json(None)}

    with pytest.raises(ShardError, match="unsigned integers and other dtypes in one split"):
        write_split(Mixed(), "train", Source(range(3)), tmp_path, quiet=True)


def stream_of(split, **changes):
    plan = Plan([shard.samples for shard in split.manifest.shards], slots=2, seed=3)
    return Stream(split, plan, (4, 4, 4), split.manifest.statistics, **changes)


def test_stream_draws_patches_by_position_only(split):
    stream = stream_of(split)
    first = [stream.sample(position) for position in range(12)]
    again = [pickle.loads(pickle.dumps(stream)).sample(position) for position in reversed(range(12))][::-1]
    for one, other in zip(first, again, strict=True):
        assert one.image.shape == (4, 4, 4, 1)
        np.testing.assert_array_equal(one.image, other.image)
        if one.mask is not None:
            np.testing.assert_array_equal(one.mask, other.mask)
            # Even image values have mask 1 if image and mask are from the same place.
            inside = one.mask != 255
            np.testing.assert_array_equal(one.mask[inside], (one.image[..., 0] % 2 == 0)[inside])
    assert len({sample.image.tobytes() for sample in first}) > 8


@dataclass
class Flaky:
    """A split with one bad sample."""

    split: object
    bad: int

    def __getattr__(self, name):
        return getattr(self.split, name)

    def __len__(self):
        return len(self.split)

    def read_patch(self, number, size, place):
        if number == self.bad:
            raise ShardError("NaN", "image")
        return self.split.read_patch(number, size, place)


def test_bad_volume_becomes_a_placeholder_of_weight_zero(split):
    stream = stream_of(Flaky(split, 1), on_bad_sample="skip")
    samples = [stream.sample(position) for position in range(3)]
    (placeholder,) = [sample for sample in samples if not sample.weight]
    assert placeholder.image.shape == (4, 4, 4, 1)
    assert (placeholder.mask == 255).all()
    assert placeholder.meta == {"skipped": "NaN", "reason": "image"}
