"""Tests of samples of several splits: concatenation, a common manifest, and refusal of incompatible splits."""

import pickle

import numpy as np
import pytest

from uml_shards import ShardError, open_split
from uml_shards.importers import Options, find_importer
from uml_shards.read.samples import Samples
from uml_shards.write.writer import write_split


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Two phantoms of different seeds and sizes."""
    folder, found = tmp_path_factory.mktemp("sets"), []
    for seed, count, size in ((1, 5, 16), (2, 9, 24)):
        importer = find_importer("phantom")(None, Options(size=size, seed=seed, counts={"train": count}))
        write_split(importer, "train", importer.splits()["train"], folder / str(seed), quiet=True)
        found.append(open_split(folder / str(seed)))
    return found


def test_samples_are_concatenated(splits):
    joined = Samples(splits)
    assert len(joined) == 14
    expected = [split.read(i) for split in splits for i in range(len(split))]
    for number, sample in enumerate(expected):
        assert (joined.read(number).image == sample.image).all()
    assert joined.labels().tolist() == [sample.label for sample in expected]
    with pytest.raises(IndexError):
        joined.read(14)
    with pytest.raises(IndexError):
        joined.read(-1)
    assert pickle.loads(pickle.dumps(joined)).read(13).key == expected[13].key


def test_manifest_describes_all_splits(splits):
    one, two = (split.manifest for split in splits)
    both = Samples(splits).manifest
    assert (both.samples, both.labelled, both.masked, both.size) == (14, 14, 14, None)
    assert both.class_counts == tuple(a + b for a, b in zip(one.class_counts, two.class_counts, strict=True))
    assert both.digest not in (one.digest, two.digest)
    assert both == type(both).model_validate_json(both.model_dump_json())


def test_statistics_are_those_of_all_images(splits):
    doubled = Samples([splits[1], splits[1]]).manifest
    assert np.allclose(doubled.statistics.mean, splits[1].manifest.statistics.mean)
    assert np.allclose(doubled.statistics.std, splits[1].manifest.statistics.std)
    images = [split.read(i).image.reshape(-1, 3) / 255 for split in splits for i in range(len(split))]
    mean = np.mean([image.mean(0) for image in images], 0)
    square = np.mean([(image**2).mean(0) for image in images], 0)
    pooled = Samples(splits).manifest.statistics
    assert np.allclose(pooled.mean, mean)
    assert np.allclose(pooled.std, np.sqrt(square - mean**2))


def test_splits_of_different_classes_are_refused(splits, monkeypatch):
    other = open_split(splits[1].path)
    other.manifest = other.manifest.model_copy(update={"classes": ("a", "b")})
    with pytest.raises(
        ShardError,
        match=r"/1 and .*/2 cannot be combined in one stream: their classes differ: benign, malignant and a, b",
    ):
        Samples([splits[0], other])
