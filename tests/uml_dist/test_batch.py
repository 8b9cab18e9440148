"""Batches: what a sample becomes on its way into a recipe, in numbers worked out by hand."""

import hashlib
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from manifests import manifest_of
from uml_dist.batch import Prediction, collate, normalise
from uml_shards.format.manifest import Statistics
from uml_shards.read.plan import Plan
from uml_shards.read.stream import Stream
from uml_shards.sample import Sample

SIZE = (2, 3)
WORD = (1 << 64) - 1


def stream_of(name="train", seed=3, **changes) -> Stream:
    manifest = manifest_of(**{"size": SIZE, **changes})
    plan = Plan([8], slots=4, seed=seed, stream=name)
    return Stream(SimpleNamespace(manifest=manifest), plan, SIZE, manifest.statistics)


def sample_of(key="a", value=51, channels=3, **changes) -> Sample:
    image = np.full((*SIZE, channels), value, dtype=np.uint8)
    return Sample(key=key, image=image, **changes)


def split_mix(*words: int) -> int:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014) chained over words, in Python's integers."""
    state = 0
    for word in words:
        state = ((state ^ word) + 0x9E3779B97F4A7C15) & WORD
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & WORD
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & WORD
        state ^= state >> 31
    return state


def test_images_are_scaled_to_one_then_by_mean_and_deviation_of_each_channel():
    image = np.zeros((*SIZE, 3), dtype=np.uint8)
    image[0, 0] = 51, 102, 153  # 0.2, 0.4 and 0.6 of 255: the means
    image[1, 2] = 255
    found = normalise(image, np.float32([0.2, 0.4, 0.6]), np.float32([0.5, 0.25, 0.1]))
    assert found.shape == (3, *SIZE)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found[:, 0, 0], 0.0, atol=1e-6)
    np.testing.assert_allclose(found[:, 1, 2], [1.6, 2.4, 4.0], rtol=1e-6)
    np.testing.assert_allclose(found[:, 0, 1], [-0.4, -1.6, -6.0], rtol=1e-6)


def test_sixteen_bits_are_scaled_by_their_own_largest_value():
    image = np.array([[[0], [13107], [65535]]], dtype=np.uint16)
    found = normalise(image, np.float32([0.2]), np.float32([0.5]))
    np.testing.assert_allclose(found, [[[-0.4, 0.0, 1.6]]], atol=1e-6)


def test_a_grey_image_and_its_repetition_in_rgb_are_normalised_alike():
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 1), dtype=np.uint8)
    grey = normalise(image, np.float32([0.3]), np.float32([0.2]))
    rgb = normalise(image.repeat(3, axis=2), np.float32([0.3] * 3), np.float32([0.2] * 3))
    assert np.array_equal(rgb, grey.repeat(3, axis=0))


def test_a_channel_that_never_changes_stays_finite():
    image = np.full((*SIZE, 1), 255, dtype=np.uint8)
    assert np.array_equal(normalise(image, np.float32([1.0]), np.float32([0.0])), np.zeros((1, *SIZE)))


def test_a_batch_has_the_shapes_and_types_that_recipes_count_on():
    mask = np.array([[0, 1, 255], [1, 0, 0]], dtype=np.uint8)
    samples = [sample_of("a", mask=mask, label=1), sample_of("b", value=255)]
    batch = collate(stream_of(), samples, [6, 2])
    assert len(batch) == 2
    assert (batch.image.shape, batch.image.dtype) == ((2, 3, *SIZE), torch.float32)
    assert batch.image[1, :, 0, 0].tolist() == pytest.approx([1.6, 2.4, 4.0], rel=1e-6)
    assert (batch.mask.shape, batch.mask.dtype) == ((2, *SIZE), torch.uint8)
    assert np.array_equal(batch.mask[0], mask)
    assert (batch.label.tolist(), batch.label.dtype) == ([1, -1], torch.int64)
    assert (batch.weight.tolist(), batch.weight.dtype) == ([1.0, 1.0], torch.float32)
    assert (batch.position.tolist(), batch.position.dtype) == ([6, 2], torch.int64)
    assert (batch.keys, batch.skipped) == (("a", "b"), ())


def test_what_a_sample_lacks_is_marked_and_does_not_count():
    mask = np.zeros(SIZE, dtype=np.uint8)
    samples = [sample_of(mask=mask, label=0), sample_of(label=1), sample_of(mask=mask), sample_of()]
    batch = collate(stream_of(), samples, range(4))
    assert batch.label.tolist() == [0, 1, -1, -1]
    assert [bool((one == 255).all()) for one in batch.mask] == [False, True, False, True]
    assert batch.labelled.tolist() == [True, True, False, False]
    assert batch.masked.tolist() == [True, False, True, False]


def test_placeholders_keep_their_place_without_weight_and_say_why():
    stream = stream_of()
    bad = stream.placeholder("skipped-5", {"skipped": "the tar is cut", "reason": "tar"})
    batch = collate(stream, [sample_of("a", label=1), bad, stream.placeholder("padding")], [0, 1, 2])
    assert batch.weight.tolist() == [1.0, 0.0, 0.0]
    assert batch.labelled.tolist() == [True, False, False]
    assert batch.masked.tolist() == [False, False, False]
    assert batch.keys == ("a", "skipped-5", "padding")
    assert batch.skipped == (("tar", "the tar is cut"),)
    assert torch.isfinite(batch.image).all()


def test_geometry_of_volumes_comes_with_the_batch_and_is_nan_where_it_is_unknown():
    affine = np.diag([0.5, 0.5, 3.0, 1.0])
    known = sample_of("a", meta={"spacing": [0.5, 0.5, 3.0], "affine": affine.tolist(), "patient": "P"})
    null = sample_of("c", meta={"spacing": None, "affine": None})
    batch = collate(stream_of(), [known, sample_of("b"), null], [0, 1, 2])
    assert batch.spacing[0].tolist() == [0.5, 0.5, 3.0]
    assert torch.equal(batch.affine[0], torch.from_numpy(affine))
    assert batch.spacing[1:].isnan().all()
    assert batch.affine[1:].isnan().all()
    assert [dict(meta) for meta in batch.meta][1] == {}
    assert batch.meta[0]["patient"] == "P"


def test_a_label_of_a_sample_without_weight_does_not_count():
    mask = np.zeros(SIZE, dtype=np.uint8)
    batch = collate(stream_of(), [sample_of(label=1, mask=mask, weight=0.0)], [0])
    assert not batch.labelled.any()
    assert not batch.masked.any()


def test_overlapping_lesions_have_a_mask_each():
    stream = stream_of(mask_classes=(), mask_names=("globules", "streaks"))
    known = np.stack([np.zeros(SIZE, np.uint8), np.full(SIZE, 255, np.uint8)])
    batch = collate(stream, [sample_of(mask=known), sample_of(), stream.placeholder("padding")], [0, 1, 2])
    assert batch.mask.shape == (3, 2, *SIZE)
    assert np.array_equal(batch.mask[0], known)
    assert (batch.mask[1:] == 255).all()
    assert batch.masked.tolist() == [True, False, False]


def test_grey_images_keep_their_one_channel():
    stream = stream_of(channels=1, statistics=Statistics(mean=(0.2,), std=(0.5,)))
    batch = collate(stream, [sample_of(channels=1), stream.placeholder("padding")], [0, 1])
    assert batch.image.shape == (2, 1, *SIZE)
    assert batch.image[:, 0, 0, 0].tolist() == pytest.approx([0.0, -0.4], abs=1e-6)


def test_an_address_is_the_hash_of_seed_stream_and_position_alone():
    positions = [0, 7, 1 << 40]
    batch = collate(stream_of("train", seed=3), [sample_of(str(n)) for n in range(3)], positions)
    name = int.from_bytes(hashlib.blake2b(b"train", digest_size=8).digest(), "little")
    assert [key & WORD for key in batch.rng_key.tolist()] == [split_mix(3, name, p) for p in positions]
    assert batch.rng_key.dtype == torch.int64
    for other in (stream_of("train", seed=4), stream_of("other", seed=3)):
        there = collate(other, [sample_of()] * 3, positions)
        assert not set(there.rng_key.tolist()) & set(batch.rng_key.tolist())


def test_a_batch_moves_as_a_whole():
    batch = collate(stream_of(), [sample_of(label=1)], [5])
    moved = batch.to(torch.device("meta"))
    tensors = (moved.image, moved.mask, moved.label, moved.weight, moved.rng_key, moved.position)
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert (moved.keys, moved.skipped) == (batch.keys, batch.skipped)
    assert batch.image.device.type == "cpu"


def test_entropies_are_in_nats_and_finite_at_certainty():
    image = torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    pixel = torch.full((1, 4, 2, 3), 0.25)
    pixel[0, :, 0, 0] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    prediction = Prediction(image_probability=image, pixel_probability=pixel)
    # -(1/4 ln 1/4 + 3/4 ln 3/4) = 2 ln 2 - 3/4 ln 3
    assert prediction.image_entropy.tolist() == pytest.approx([2 * math.log(2) - 0.75 * math.log(3), 0.0, math.log(2)])
    assert prediction.pixel_entropy.shape == (1, 2, 3)
    assert prediction.pixel_entropy[0, 0, 0] == 0.0
    assert prediction.pixel_entropy[0, 1].tolist() == pytest.approx([math.log(4)] * 3)


def test_a_task_that_a_recipe_lacks_has_no_entropy():
    assert Prediction().image_entropy is None
    assert Prediction().pixel_entropy is None
