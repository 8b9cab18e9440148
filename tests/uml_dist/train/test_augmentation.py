"""Augmentation of volumes on the device equals that by NumPy, bit for bit, and depends on the key alone."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from naive_turns import moved
from uml_dist.batch import Batch
from uml_dist.train.augmentation import VOLUME_AUGMENTATIONS, augment
from uml_shards.keyed import keyed_bits

SEED, STREAM, BATCH = 5, "labelled", 128


def batch_of(*sides: int, lesions: int = 0, channels: int = 1) -> Batch:
    """Volumes of which every voxel has a number of its own; the masks are the lowest byte of the first channel's."""
    image = torch.arange(BATCH * channels * torch.Size(sides).numel(), dtype=torch.float32)
    image = image.reshape(BATCH, channels, *sides)
    mask = (image[:, 0] % 251).to(torch.uint8)
    position = torch.arange(BATCH)
    return Batch(
        image=image,
        mask=torch.stack([mask + layer for layer in range(lesions)], 1) if lesions else mask,
        label=torch.full((BATCH,), -1),
        weight=torch.ones(BATCH),
        rng_key=torch.from_numpy(keyed_bits(SEED, STREAM, position.numpy()).view("int64")),
        position=position,
        keys=tuple(map(str, range(BATCH))),
    )


@pytest.mark.parametrize("name", ["light", "axial", "none"])
@pytest.mark.parametrize(
    ("sides", "lesions", "channels"), [((6, 6, 4), 0, 1), ((6, 4, 5), 0, 2), ((3, 3, 3), 2, 1), ((1, 5, 2), 3, 2)]
)
def test_every_volume_moves_as_by_numpy(name, sides, lesions, channels):
    batch = batch_of(*sides, lesions=lesions, channels=channels)
    before = batch.image.clone()
    found, expected = augment(batch, name), moved(batch, name, SEED, STREAM)
    assert torch.equal(found.image, expected.image)
    assert torch.equal(found.mask, expected.mask)
    assert found.mask.dtype == torch.uint8
    assert torch.equal(batch.image, before)
    assert replace(found, image=batch.image, mask=batch.mask) == batch


def orientations(image: Tensor) -> set[tuple[float, ...]]:
    """Return the orientations of volumes whose corners had the numbers of voxels."""
    corners = image[:, 0, ::5, ::5, ::3].flatten(1)
    return {tuple(corner.tolist()) for corner in corners}


@pytest.mark.parametrize(
    ("name", "equal", "others"),
    # Axial: all volumes are mirrored, so of the 8 orientations of a square there are 4, of an oblong's 4 there are 2.
    [("light", 16, 8), ("axial", 4, 2), ("none", 1, 1)],
)
def test_every_orientation_that_keeps_the_shape_occurs(name, equal, others):
    for sides, number in (((6, 6, 4), equal), ((6, 11, 4), others)):
        one = batch_of(*sides)
        alike = replace(one, image=one.image[:1].expand_as(one.image))
        assert len(orientations(augment(alike, name).image)) == number


def test_a_volume_moves_alike_in_any_batch():
    batch = batch_of(6, 6, 4)
    whole = augment(batch, "light")
    part = replace(batch, **{name: getattr(batch, name)[7:9] for name in ("image", "mask", "rng_key")})
    assert torch.equal(augment(part, "light").image, whole.image[7:9])


def test_axial_leaves_the_third_axis_in_place():
    batch = batch_of(6, 6, 4)
    level = torch.arange(4.0).expand(BATCH, 1, 6, 6, 4)
    assert torch.equal(augment(replace(batch, image=level), "axial").image, level)
    assert not torch.equal(augment(replace(batch, image=level), "light").image, level)


@pytest.mark.parametrize("name", [name for name, draw in VOLUME_AUGMENTATIONS.items() if draw])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_moves_volumes_as_the_cpu_does(name):
    batch = batch_of(6, 6, 4)
    assert torch.equal(augment(batch.to(torch.device("cuda")), name).image.cpu(), augment(batch, name).image)
