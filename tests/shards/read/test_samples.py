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


def test_samples_without_masks_keep_their_labels(splits):
    whole, bare = Samples(splits), Samples(splits).without_masks()
    assert (bare.manifest.masked, bare.manifest.labelled) == (0, 14)
    assert not bare.masked().any()
    assert whole.masked().all()
    for number in (0, 13):
        sample, expected = pickle.loads(pickle.dumps(bare)).read(number), whole.read(number)
        assert sample.mask is None
        assert (sample.key, sample.label, sample.meta) == (expected.key, expected.label, expected.meta)
        assert (sample.image == expected.image).all()


NAMELESS = {"classes": (), "tasks": {}, "class_counts": (), "mask_classes": (), "labelled": 0, "masked": 0}


def nameless(split):
    """The same split as bare images of which no class is stated."""
    bare = split.without_truth()
    bare.manifest = split.manifest.model_copy(update=NAMELESS)
    return bare


@pytest.mark.parametrize("order", [1, -1])
def test_split_that_states_no_names_joins_any_as_images_without_truth(splits, order):
    joined = Samples([splits[0], nameless(splits[1])][::order])
    stated = splits[0].manifest
    for field in ("classes", "tasks", "mask_classes", "class_counts", "labelled", "masked"):
        assert getattr(joined.manifest, field) == getattr(stated, field)
    known = [5, 9] if order == 1 else [9, 5]
    assert sum(joined.masked()) == sum(joined.labels() >= 0) == 5
    read = [joined.read(number) for number in range(14)]
    assert [sample.mask is None for sample in read] == [order == -1] * known[0] + [order == 1] * known[1]
    assert [sample.label is None for sample in read] == [sample.mask is None for sample in read]


def test_splits_that_state_no_names_join_without_names(splits):
    joined = Samples([nameless(split) for split in splits]).manifest
    assert (joined.classes, joined.mask_classes, joined.class_counts, joined.labelled) == ((), (), (), 0)


def test_splits_around_one_without_names_are_compared(splits):
    other = open_split(splits[1].path)
    other.manifest = other.manifest.model_copy(update={"mask_classes": (), "mask_names": ("rim",)})
    with pytest.raises(ShardError, match=r"/1 and .*/2 .*: their mask_classes differ: background, lesion and none"):
        Samples([splits[0], nameless(splits[1]), other])


def test_names_of_another_manifest_fill_in_those_that_are_not_stated(splits):
    split, stated = nameless(splits[1]), splits[0].manifest
    named = split.with_names(stated)
    assert (named.manifest.classes, named.manifest.mask_classes) == (stated.classes, stated.mask_classes)
    assert (named.digest, named.keys()) == (splits[1].manifest.digest, split.keys())
    assert split.with_names(stated, classes=False).manifest.classes == ()
    assert split.with_names(stated, masks=False).manifest.mask_classes == ()
    assert splits[1].with_names(split.manifest).manifest == splits[1].manifest


def test_splits_of_different_classes_are_refused(splits, monkeypatch):
    other = open_split(splits[1].path)
    other.manifest = other.manifest.model_copy(update={"classes": ("a", "b")})
    with pytest.raises(
        ShardError,
        match=r"/1 and .*/2 cannot be combined in one stream: their classes differ: benign, malignant and a, b",
    ):
        Samples([splits[0], other])
