"""Tests of the phantom: its arrays are frozen, its stored truth is correct, and colours alone do not solve it."""

import hashlib

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uml_shards import ShardError, open_split
from uml_shards.importers import Options, find_importer
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.importers.phantom_pictures import draw
from uml_shards.read.truth import TRUTH, auroc, foreground_probability, oracle
from uml_shards.sources.encode import encode_grey
from uml_shards.write.writer import write_split

FROZEN = "a7a1fa5f2835a882b9c18fde87eec58c57be909b6a9ec116a3e22a0bfde7b18d"
"""SHA-256 of the arrays of twelve phantoms: published oracle scores are valid for these images only."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A phantom with 600 training and 500 validation samples."""
    folder = tmp_path_factory.mktemp("shards")
    importer = find_importer("phantom")(None, Options(counts={"train": 600, "val": 500, "test": 0}))
    for name, source in importer.splits().items():
        write_split(importer, name, source, folder / name, workers=2, quiet=True)
    return {name: open_split(folder / name) for name in ("train", "val")}


@pytest.fixture(scope="module")
def small():
    """Many small phantoms, for statistics."""
    return [draw(1, "val", number, 24) for number in range(1500)]


def test_arrays_are_frozen():
    digest = hashlib.sha256()
    for number in range(12):
        drawn = draw(0, "train", number, 96)
        for array in (drawn.image, drawn.mask, drawn.foreground, np.array([drawn.label, drawn.malignant], "<i8")):
            digest.update(np.ascontiguousarray(array).tobytes())
    assert digest.hexdigest() == FROZEN


def test_sample_depends_on_seed_split_and_number():
    first = draw(0, "train", 3, 32)
    np.testing.assert_array_equal(first.image, draw(0, "train", 3, 32).image)
    for other in (draw(1, "train", 3, 32), draw(0, "val", 3, 32), draw(0, "train", 4, 32)):
        assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("size", [16, 96, 131])
def test_every_size_is_drawn(size):
    drawn = draw(0, "train", 0, size)
    assert drawn.image.shape == (size, size, 3)
    assert drawn.mask.shape == drawn.foreground.shape == (size, size)
    assert set(np.unique(drawn.mask)) <= {0, 1}


def test_labels_are_drawn_from_the_stored_probability(small):
    stored = np.array([drawn.malignant for drawn in small]) / 1000
    labels = np.array([drawn.label for drawn in small])
    for low, high in ((0.0, 0.001), (0.001, 0.25), (0.25, 0.75), (0.75, 1.0)):
        chosen = (stored >= low) & (stored < high)
        error = np.sqrt(np.sum(stored[chosen] * (1 - stored[chosen])))
        assert chosen.sum() > 50
        assert abs(labels[chosen].sum() - stored[chosen].sum()) <= 4 * error


def test_masks_are_drawn_from_the_stored_probability(small):
    """Pixels of one image are drawn jointly, so the spread is measured between images."""
    for low, high in ((1, 64), (64, 128), (128, 192), (192, 255)):
        gaps = []
        for drawn in small:
            band = (drawn.foreground >= low) & (drawn.foreground < high)
            gaps.append(np.sum(drawn.mask[band] - drawn.foreground[band] / 255.0))
        assert abs(np.sum(gaps)) < 4 * np.sqrt(np.sum(np.square(gaps)))


def test_certain_pixels_are_never_drawn_otherwise(small):
    assert not any(drawn.mask[drawn.foreground == 0].any() for drawn in small)
    assert all(drawn.mask[drawn.foreground == 255].all() for drawn in small)


def test_image_without_lesion_is_always_benign(small):
    empty = [drawn for drawn in small if not drawn.foreground.any()]
    assert 0.05 < len(empty) / len(small) < 0.11
    assert all(drawn.malignant == 0 and drawn.label == 0 for drawn in empty)


def test_lesion_size_hardly_predicts_the_class(small):
    with_lesion = [drawn for drawn in small if drawn.foreground.any()]
    areas = [drawn.foreground.sum() for drawn in with_lesion]
    assert abs(auroc([drawn.label for drawn in with_lesion], areas) - 0.5) < 0.08


def test_the_oracle_leaves_moderate_ambiguity(made):
    best = oracle(made["val"])
    assert 0.90 < best.auroc < 0.95
    assert 0.80 < best.accuracy < 0.90
    assert 0.93 < best.dice < 0.97
    assert 0.0 < best.ece < 0.06


class FourMasks(PhantomImporter):
    """Four samples: empty truth and mask; complete mask; half of the truth in the mask; mask without truth."""

    areas = ((0, 0), (8, 8), (8, 4), (0, 4))

    def encode(self, item):
        key, components = super().encode(item)
        truth, mask = np.zeros((2, self.size, self.size), dtype=np.uint8)
        rows, drawn = self.areas[item[1]]
        truth[:rows], mask[:drawn] = 255, 1
        return key, components | {TRUTH: encode_grey(truth), "mask.png": encode_grey(mask)}


class NothingThere(FourMasks):
    """Four samples without foreground."""

    areas = ((0, 0),) * 4


def oracle_of(kind, folder, *rule):
    importer = kind(None, Options(size=16, counts={"val": 4}))
    write_split(importer, "val", importer.splits()["val"], folder / kind.__name__, quiet=True)
    return oracle(open_split(folder / kind.__name__), *rule).dice


def test_the_oracle_counts_samples_without_foreground_as_one_or_leaves_them_out(tmp_path):
    # 8 rows there and 4 of them drawn: 2 * 4 / (8 + 4).
    assert oracle_of(FourMasks, tmp_path) == pytest.approx((1 + 1 + 2 / 3 + 0) / 4)
    split = open_split(tmp_path / "FourMasks")
    assert oracle(split, "one") == oracle(split)
    assert oracle(split, "leave-out").dice == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert oracle_of(NothingThere, tmp_path) == 1.0
    assert np.isnan(oracle(open_split(tmp_path / "NothingThere"), "leave-out").dice)


def colours(split) -> tuple[np.ndarray, np.ndarray]:
    """Histograms of each channel, 16 bins, and labels."""
    samples = [split.read(number) for number in range(len(split))]
    bins = [
        [np.bincount(channel.ravel() // 16, minlength=16) for channel in s.image.transpose(2, 0, 1)] for s in samples
    ]
    return np.sqrt(np.reshape(bins, (len(samples), -1))), np.array([sample.label for sample in samples])


def test_colours_stay_far_below_the_oracle(made):
    (train, labels), (val, truth) = colours(made["train"]), colours(made["val"])
    best = oracle(made["val"]).auroc
    for strength in (0.01, 1.0):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(train, labels)
        assert auroc(truth, model.decision_function(val)) < best - 0.10
    assert auroc(truth, np.zeros(len(truth))) < best - 0.10


def test_stored_truth_is_the_drawn_one(made):
    split = made["val"]
    sample = split.read(7)
    drawn = draw(0, "val", int(sample.key.removeprefix("val-")), 96)
    np.testing.assert_array_equal(foreground_probability(split, 7), drawn.foreground.astype(np.float32) / 255)
    assert sample.meta["class_probability"] == [(1000 - drawn.malignant) / 1000, drawn.malignant / 1000]


def test_auroc_agrees_with_scikit_learn_also_on_ties():
    generator = np.random.default_rng(0)
    labels, scores = generator.integers(0, 2, 300), generator.integers(0, 12, 300)
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert np.isnan(auroc([1, 1], [0.2, 0.3]))


@pytest.mark.parametrize("options", [Options(counts={"trian": 3}), Options(counts={"val": -1}), Options(size=4)])
def test_invalid_options_are_reported_in_one_line(options):
    with pytest.raises(ShardError, match="phantom: "):
        find_importer("phantom")(None, options).splits()
