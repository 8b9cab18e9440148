"""Tests of the phantom of fundus photographs: frozen arrays, the rule of the grade, and the streams that read it."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import load_script
from uml_shards import ShardError, open_split
from uml_shards.importers import Options, find_importer
from uml_shards.importers.phantom_retinas import GRADES, LESIONS, MANY, draw, grade_of
from uml_shards.read.part import part_of
from uml_shards.read.samples import Samples
from uml_shards.write.verify import verify
from uml_shards.write.writer import write_split

SCRIPT = Path(__file__).parents[3] / "launchers" / "shards.py"

FROZEN = "9de96aae4d37aebb7a921c7dc7c253e746f4fa39c287f3dcc1afbe0a6b15b9f9"
"""SHA-256 of the arrays of ten phantoms: published scores are valid for these photographs only."""

MA, HE, EX, SE = range(4)


@pytest.fixture(scope="module")
def many():
    """Phantoms for statistics."""
    return [draw(0, "train", number, 64) for number in range(200)]


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """A split of 25 images."""
    importer = find_importer("phantom_fundus")(None, Options(counts={"train": 25, "val": 0, "test": 0}))
    folder = tmp_path_factory.mktemp("shards") / "train"
    write_split(importer, "train", importer.splits()["train"], folder, quiet=True)
    return folder


def auroc(negative, positive):
    """Probability that a positive is larger than a negative."""
    gaps = np.subtract.outer(positive, negative)
    return (np.sum(gaps > 0) + np.sum(gaps == 0) / 2) / gaps.size


def test_arrays_are_frozen():
    digest = hashlib.sha256()
    for number in range(10):
        drawn = draw(0, "train", number, 64)
        digest.update(drawn.image.tobytes() + drawn.masks.tobytes() + bytes([drawn.grade]))
    assert digest.hexdigest() == FROZEN


def test_photograph_depends_on_seed_split_and_number():
    first = draw(0, "train", 3, 48).image
    np.testing.assert_array_equal(first, draw(0, "train", 3, 48).image)
    for other in (draw(1, "train", 3, 48), draw(0, "val", 3, 48), draw(0, "train", 4, 48)):
        assert not np.array_equal(first, other.image)


@pytest.mark.parametrize(
    ("counts", "grade"),
    [
        ((0, 0, 0, 0), "no_dr"),
        ((1, 0, 0, 0), "mild"),
        ((10, 0, 0, 0), "mild"),
        ((0, 1, 0, 0), "moderate"),
        ((9, MANY - 1, 0, 0), "moderate"),
        ((0, 0, 4, 0), "moderate"),
        ((0, 0, 0, 1), "severe"),
        ((9, MANY - 1, 3, 2), "severe"),
        ((0, MANY, 0, 0), "severe"),
        ((0, MANY, 0, 1), "proliferative"),
        ((9, 9, 4, 2), "proliferative"),
    ],
)
def test_the_grade_follows_from_the_kinds_of_lesions(counts, grade):
    assert GRADES[grade_of(dict(zip(LESIONS, counts, strict=True)))] == grade


@settings(max_examples=30)
@given(st.integers(0, 1000), st.sampled_from(["train", "val", "test"]), st.integers(0, 10_000))
def test_masks_show_the_lesions_from_which_the_grade_follows(seed, split, number):
    drawn = draw(seed, split, number, 48)
    assert drawn.grade == grade_of(drawn.counts)
    assert drawn.masks.any(axis=(1, 2)).tolist() == [drawn.counts[name] > 0 for name in LESIONS]


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_of_five_consecutive_samples_each_has_another_grade(seed, block):
    assert sorted(draw(seed, "val", 5 * block + place, 48).grade for place in range(5)) == [0, 1, 2, 3, 4]


def test_the_area_of_lesions_does_not_tell_the_worse_grades_apart(many):
    areas = [[drawn.masks.any(axis=0).mean() for drawn in many if drawn.grade == grade] for grade in range(5)]
    assert auroc(areas[2], areas[3]) < 0.6
    assert auroc(areas[3], areas[4]) < 0.65
    assert auroc(areas[2], areas[4]) < 0.7


def test_lesions_differ_in_size_and_overlap(many):
    masks = np.stack([drawn.masks for drawn in many])
    counts = np.array([[drawn.counts[name] for name in LESIONS] for drawn in many])
    sizes = masks.sum(axis=(0, 2, 3)) / counts.sum(axis=0)  # in pixels; those that overlap count less
    assert 2 < sizes[MA] < 5
    assert sizes[HE] > 3 * sizes[MA]
    assert sizes[SE] > 6 * sizes[MA]
    for one, other in ((MA, HE), (HE, EX), (EX, SE), (HE, SE)):
        assert (masks[:, one] & masks[:, other]).any()


def test_lesions_are_dark_or_bright_and_some_can_hardly_be_seen(many):
    for kind, sign in ((MA, -1), (HE, -1), (EX, 1), (SE, 1)):
        contrasts = []
        for drawn in many:
            alone = drawn.masks[kind] & (drawn.masks.sum(axis=0) == 1).astype(np.uint8)
            if alone.any():
                green, clear = drawn.image[..., 1].astype(float), ~drawn.masks.any(axis=0) & (drawn.image[..., 0] > 60)
                contrasts.append(sign * (green[alone > 0].mean() - green[clear].mean()) / green[clear].std())
        assert np.median(contrasts) > 0.5
        assert np.min(contrasts) < 0.3


def test_larger_photographs_show_the_same_retina():
    small, large = draw(0, "train", 1, 64), draw(0, "train", 1, 128)
    assert (small.grade, small.counts) == (large.grade, large.counts)
    shares = large.masks.reshape(4, 64, 2, 64, 2).mean(axis=(2, 4))
    assert np.abs(shares - small.masks).mean() < 0.01
    shrunk = large.image.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - small.image).mean() < 6


def test_shards_contain_masks_grade_and_counts(train):
    assert verify(train, quiet=True) == []
    split = open_split(train)
    manifest = split.manifest
    assert (manifest.classes, manifest.mask_names, manifest.mask_classes) == (GRADES, LESIONS, ())
    assert (manifest.labelled, manifest.masked, manifest.class_counts) == (25, 25, (5,) * 5)
    assert manifest.tasks == {"abnormal": (1, 2, 3, 4), "referable": (2, 3, 4)}
    for number in (0, 7):
        sample = split.read(number)
        drawn = draw(0, "train", int(sample.key.removeprefix("train-")), 64)
        np.testing.assert_array_equal(sample.mask, drawn.masks)
        assert sample.label == drawn.grade
        assert sample.meta["lesions"] == drawn.counts
        assert np.abs(sample.image.astype(int) - drawn.image).mean() < 4  # JPEG


def test_few_masks_and_all_grades_are_read_from_the_same_shards(train, tmp_path):
    ids = tmp_path / "pixel.txt"
    words = ["draw", str(train), "--labelled", "10", "--out", str(ids), "--quiet"]
    assert load_script(SCRIPT).main(words) == 0
    whole = Samples([open_split(train)])
    pixel, image = part_of(whole, "labelled", ids), whole.without_masks()
    assert (len(pixel), pixel.manifest.masked) == (10, 10)
    assert all(pixel.read(number).mask.shape == (4, 64, 64) for number in range(10))
    assert (len(image), image.manifest.masked, image.manifest.labelled) == (25, 0, 25)
    samples = [image.read(number) for number in range(25)]
    assert all(sample.mask is None for sample in samples)
    assert Counter(sample.label for sample in samples) == dict.fromkeys(range(5), 5)
    assert set(pixel.keys()) < set(image.keys())


@pytest.mark.parametrize("options", [Options(counts={"trian": 3}), Options(counts={"val": -1}), Options(size=47)])
def test_invalid_options_are_reported_in_one_line(options):
    with pytest.raises(ShardError, match="phantom_fundus: ") as caught:
        find_importer("phantom_fundus")(None, options).splits()
    assert "\n" not in str(caught.value)
