"""Tests of streams and the loader: bad samples, placeholders, and independence of the number of workers."""

import itertools
import shutil

import numpy as np
import pytest

from broken_shards import restate_digests
from uml_shards import ShardError, open_split
from uml_shards.importers import Options
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.read.augment import light, resize
from uml_shards.read.loader import load
from uml_shards.read.plan import Plan
from uml_shards.read.stream import Stream
from uml_shards.write.writer import write_split

SAMPLES, SIZE, BAD = 12, (16, 16), 5


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A phantom split of 3 shards of 4 samples, as JPEG."""
    folder = tmp_path_factory.mktemp("shards") / "train"
    importer = PhantomImporter(None, Options(size=16, counts={"train": SAMPLES}))
    write_split(importer, "train", importer.splits()["train"], folder, samples_per_shard=4, quiet=True)
    return folder


@pytest.fixture(scope="module")
def damaged(made, tmp_path_factory):
    """The same split with some flipped bytes in one JPEG; sizes and index still match."""
    folder = shutil.copytree(made, tmp_path_factory.mktemp("damaged") / "train")
    _, components = open_split(folder).components(BAD)
    tar = folder / "shard-000001.tar"
    data = bytearray(tar.read_bytes())
    at = data.index(components["jpg"])
    data[at : at + 4] = bytes(byte ^ 0xFF for byte in data[at : at + 4])
    tar.write_bytes(data)
    restate_digests(folder)
    return folder


def stream_of(folder, name="train", **changes) -> Stream:
    plan = Plan([4, 4, 4], slots=4, seed=2, stream=name)
    split = open_split(folder)
    return Stream(split, plan, **{"size": SIZE, "statistics": split.manifest.statistics, **changes})


def place_of(stream: Stream, number: int) -> int:
    return next(position for position in range(SAMPLES) if stream.plan.sample(position) == number)


def collate(stream, samples, positions):
    """Return a batch that can be compared: names and bytes."""
    return stream.name, tuple(positions), [(one.key, one.weight, one.label, one.image.tobytes()) for one in samples]


def test_samples_follow_the_plan_and_are_unchanged(made):
    stream, split = stream_of(made), open_split(made)
    keys = [stream.sample(position).key for position in range(SAMPLES)]
    assert sorted(keys) == sorted(split.keys())
    for position in range(SAMPLES):
        stored, given = split.read(stream.plan.sample(position)), stream.sample(position)
        assert given.key == stored.key
        assert np.array_equal(given.image, stored.image)
        assert np.array_equal(given.mask, stored.mask)


def test_augmentation_comes_after_resizing_and_is_keyed_by_seed_stream_and_position(made):
    size, position = (24, 24), 3
    given = stream_of(made, augment="light", size=size).sample(position)
    stored = open_split(made).read(stream_of(made).plan.sample(position))
    expected = light(resize(stored, size), 2, "train", position)
    assert given.image.shape == (24, 24, 3)
    assert np.array_equal(given.image, expected.image)
    assert np.array_equal(given.mask, expected.mask)


def test_bad_sample_error_names_shard_and_key_in_one_line(damaged):
    stream = stream_of(damaged)
    key = open_split(damaged).keys()[BAD]
    with pytest.raises(ShardError, match=rf"shard-000001\.tar: sample {key}: jpg: ") as caught:
        stream.sample(place_of(stream, BAD))
    assert "\n" not in str(caught.value)


def test_skipping_inserts_a_placeholder_and_keeps_other_samples(made, damaged):
    whole, skipping = stream_of(made, augment="light"), stream_of(damaged, augment="light", on_bad_sample="skip")
    bad = place_of(whole, BAD)
    for position in range(SAMPLES):
        given, expected = skipping.sample(position), whole.sample(position)
        if position == bad:
            assert (given.weight, given.label, given.key) == (0.0, None, f"skipped-{BAD}")
            assert f"sample {expected.key}: jpg: " in given.meta["skipped"]
            assert (given.image.shape, given.image.dtype) == (expected.image.shape, expected.image.dtype)
            assert (given.mask == 255).all()
            assert given.mask.shape == expected.mask.shape
        else:
            assert (given.key, given.label, given.weight) == (expected.key, expected.label, 1.0)
            assert np.array_equal(given.image, expected.image)
            assert np.array_equal(given.mask, expected.mask)


def test_padding_is_a_placeholder_of_the_stream_size(made):
    class Nothing:
        stream, seed = "train", 0

        def sample(self, position):
            return None

    split = open_split(made)
    given = Stream(split, Nothing(), (24, 32), split.manifest.statistics).sample(0)
    assert (given.key, given.weight, given.meta) == ("padding", 0.0, {})
    assert (given.image.shape, given.mask.shape) == ((24, 32, 3), (24, 32))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_number_of_workers_does_not_change_batches_or_their_order(made):
    streams = {name: stream_of(made, name, augment="light") for name in ("labelled", "free")}
    requests = [{"labelled": [4 * step, 4 * step + 1], "free": [step]} for step in range(7)]
    batches = [list(load(streams, requests, collate, workers)) for workers in (0, 1, 3)]
    assert [batch["labelled"][1] for batch in batches[0]] == [tuple(request["labelled"]) for request in requests]
    assert batches[1] == batches[0]
    assert batches[2] == batches[0]


def test_only_the_streams_of_a_request_are_read(made, damaged):
    streams = {"good": stream_of(made, "good"), "bad": stream_of(damaged, "bad")}
    bad = place_of(streams["bad"], BAD)
    sound = next(position for position in range(SAMPLES) if position != bad)
    requests = [{"good": [bad]}, {"bad": [sound]}, {"good": [0], "bad": [sound]}]
    assert [list(batches) for batches in load(streams, requests, collate)] == [["good"], ["bad"], ["good", "bad"]]


@pytest.mark.parametrize("workers", [0, 2])
def test_worker_error_stays_one_line_and_in_order(damaged, workers):
    stream = stream_of(damaged)
    bad = place_of(stream, BAD)
    good = [position for position in range(SAMPLES) if position != bad]
    requests = [{"train": [good[0]]}, {"train": [good[1]]}, {"train": [good[2], bad]}, {"train": [good[3]]}]
    batches = load({"train": stream}, requests, collate, workers)
    assert [next(batches)["train"][1] for _ in range(2)] == [(good[0],), (good[1],)]
    with pytest.raises(ShardError, match=r"shard-000001\.tar: sample train-\d+: jpg: ") as caught:
        next(batches)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_requests_may_be_infinite(made, workers):
    requests = ({"train": [step]} for step in itertools.count())
    batches = load({"train": stream_of(made)}, requests, collate, workers)
    assert [next(batches)["train"][1] for _ in range(20)] == [(step,) for step in range(20)]


def test_channel_without_deviation_cannot_be_normalised(made):
    statistics = open_split(made).manifest.statistics.model_copy(update={"std": (0.2, 0.0, 0.2)})
    with pytest.raises(ShardError, match=r'channel 1 has standard deviation 0 .*: set data\.normalise = "unit"'):
        Stream(open_split(made), Plan([4, 4, 4], slots=4), SIZE, statistics)
