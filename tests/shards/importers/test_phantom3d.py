"""Tests of the phantom of volumes: its arrays are frozen, its stored truth is correct, and its splits are read."""

import hashlib

import numpy as np
import pytest

from uml_shards import ShardError, open_split
from uml_shards.importers import Options, find_importer
from uml_shards.importers.phantom_volumes import draw
from uml_shards.read.truth import foreground_probability, oracle
from uml_shards.write.verify import verify
from uml_shards.write.writer import write_split

FROZEN = "69d7b9604a10fb4c1f2b9d30a6fd3cbc57f7ee354334eb92db4540c1173a8400"
"""SHA-256 of the arrays of four phantoms: published scores are valid for these volumes only."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A phantom with 3 training and 6 test volumes."""
    folder = tmp_path_factory.mktemp("shards")
    importer = find_importer("phantom3d")(None, Options(counts={"train": 3, "val": 0, "test": 6}))
    for name, source in importer.splits().items():
        write_split(importer, name, source, folder / name, quiet=True)
    return folder


@pytest.fixture(scope="module")
def small():
    """Many small phantoms, for statistics."""
    return [draw(1, "val", number, 20) for number in range(200)]


def test_arrays_are_frozen():
    digest = hashlib.sha256()
    for number in range(4):
        drawn = draw(0, "train", number, 48)
        for array in (drawn.image, drawn.mask, drawn.foreground):
            digest.update(np.ascontiguousarray(array).tobytes())
    assert digest.hexdigest() == FROZEN


def test_volume_depends_on_seed_split_and_number():
    first = draw(0, "train", 3, 24)
    np.testing.assert_array_equal(first.image, draw(0, "train", 3, 24).image)
    for other in (draw(1, "train", 3, 24), draw(0, "val", 3, 24), draw(0, "train", 4, 24)):
        assert first.image.shape != other.image.shape or not np.array_equal(first.image, other.image)


def test_sizes_vary_and_a_patch_of_32_fits_into_every_volume():
    shapes = {draw(0, "train", number, 48).image.shape for number in range(12)}
    assert len(shapes) > 6
    for shape in shapes:
        assert all(45 <= side <= 51 for side in shape[:2])
        assert 32 <= shape[2] <= 36


def test_masks_are_drawn_from_the_stored_probability(small):
    """Voxels of one volume are drawn jointly, so the spread is measured between volumes."""
    for low, high in ((1, 64), (64, 128), (128, 192), (192, 255)):
        gaps = []
        for drawn in small:
            band = (drawn.foreground >= low) & (drawn.foreground < high)
            gaps.append(np.sum(drawn.mask[band] - drawn.foreground[band] / 255.0))
        assert abs(np.sum(gaps)) < 4 * np.sqrt(np.sum(np.square(gaps)))


def test_certain_voxels_are_never_drawn_otherwise(small):
    assert not any(drawn.mask[drawn.foreground == 0].any() for drawn in small)
    assert all(drawn.mask[drawn.foreground == 255].all() for drawn in small)


def test_the_border_is_ambiguous_and_the_organ_is_not_the_brightest_thing():
    for number in range(6):
        drawn = draw(0, "test", number, 48)
        unsure = ((drawn.foreground > 25) & (drawn.foreground < 230)).sum()
        assert 0.04 < unsure / drawn.mask.sum() < 0.6
        inside, outside = drawn.image[drawn.foreground == 255], drawn.image[drawn.foreground == 0]
        # Look-alikes: many voxels outside are as bright as the organ.
        assert (outside > np.median(inside)).sum() > 0.03 * len(inside)


def test_shards_state_spacing_and_truth(made):
    assert verify(made, quiet=True) == []
    split = open_split(made / "test")
    assert split.manifest.mask_classes == ("background", "organ")
    sample = split.read(2)
    drawn = draw(0, "test", int(sample.key.removeprefix("test-")), 48)
    np.testing.assert_array_equal(sample.image[..., 0], drawn.image)
    np.testing.assert_array_equal(sample.mask, drawn.mask)
    np.testing.assert_array_equal(foreground_probability(split, 2), drawn.foreground.astype(np.float32) / 255)
    assert sample.meta["spacing"] == [1.0, 1.0, 1.5]
    patch = split.read_patch(2, (32, 32, 32), (0.0, 0.0, 0.0))
    np.testing.assert_array_equal(patch.image[..., 0], drawn.image[:32, :32, :32])


def test_the_oracle_of_volumes_has_a_dice_and_no_scores_of_classes(made):
    best = oracle(open_split(made / "test"))
    dices = []
    for number in range(6):
        drawn = draw(0, "test", number, 48)
        sure = drawn.foreground >= 127.5
        dices.append(2 * (sure & (drawn.mask == 1)).sum() / (sure.sum() + drawn.mask.sum()))
    assert best.dice == pytest.approx(np.mean(dices))
    assert 0.94 < best.dice < 0.995
    assert np.isnan([best.auroc, best.accuracy, best.ece]).all()


@pytest.mark.parametrize("options", [Options(counts={"trian": 3}), Options(counts={"val": -1}), Options(size=4)])
def test_invalid_options_are_reported_in_one_line(options):
    with pytest.raises(ShardError, match="phantom3d: "):
        find_importer("phantom3d")(None, options).splits()
