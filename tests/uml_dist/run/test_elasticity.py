"""Ranks, workers and the place of a resume change no sample: from the configuration to augmented batches."""

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runs import PartlyKnown
from uml_dist.batch import collate
from uml_dist.config.loading import validate
from uml_dist.run.data import make_streams, open_splits
from uml_dist.train.rank_batch import RankBatch
from uml_shards import open_split
from uml_shards.importers import Options
from uml_shards.read.loader import load
from uml_shards.write.writer import write_split

RANKS, SLOTS, SIZE = (1, 2, 3, 4, 8), 24, (16, 16)
BALANCED, BY_NAME = {"sampling": "balanced"}, {"sampling": {"malignant": 3, "benign": 1}}
LABELLED, UNLABELLED = {"part": "labelled"}, {"part": "unlabelled"}

STREAMS = {
    "once": {},
    "classes alike": BALANCED,
    "classes by name": BY_NAME,
    "joined": {"more_shards": True},
    "joined by weight": {"more_shards": True, "weights": [1, 3]},
    "labelled": LABELLED,
    "unlabelled": UNLABELLED,
    "listed": {**LABELLED, "labelled_ids": True},
    "all but the listed": {**UNLABELLED, "labelled_ids": True, "more_shards": True},
    "labelled, classes alike": {**LABELLED, **BALANCED, "more_shards": True},
    "labelled, joined by weight": {**LABELLED, "more_shards": True, "weights": [3, 1]},
}
"""What a stream may be; True stands for the second data set, and for the list."""


class Renamed(PartlyKnown):
    """Keys that tell the data set."""

    def encode(self, item):
        key, components = super().encode(item)
        return f"{self.options.seed}-{key}", components


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two data sets of 41 and 14 samples in shards of 5 to 7, some without label or mask, and a list of 24 of them."""
    folder = tmp_path_factory.mktemp("elastic")
    for name, samples, seed, per_shard in (("one", 41, 1, 6), ("two", 14, 2, 7)):
        importer = Renamed(options=Options(size=16, seed=seed, counts={"train": samples}))
        source = importer.splits()["train"]
        write_split(importer, "train", source, folder / name / "train", samples_per_shard=per_shard, quiet=True)
    split = open_split(folder / "one" / "train")
    known = np.flatnonzero(split.masked())[:24]
    (folder / "labelled.txt").write_text("\n".join(split.keys()[number] for number in known))
    return folder


def streams_of(data, kinds, seed=0, window=5):
    """The streams of a run, by the names of their kinds."""

    def stated(kind):
        places = {"more_shards": [str(data / "two")], "labelled_ids": str(data / "labelled.txt")}
        stream = {key: places[key] if value is True else value for key, value in STREAMS[kind].items()}
        return {"shards": str(data / "one"), "count": SLOTS, **stream}

    tree = {"recipe": "uml", "streams": {kind: stated(kind) for kind in kinds}}
    tree |= {"data": {"window": window, "augment": "light"}, "train": {"seed": seed, "steps": 1}}
    config = validate(tree, "test")
    splits = open_splits(config)
    counts, sizes = dict.fromkeys(kinds, SLOTS), dict.fromkeys(kinds, SIZE)
    return make_streams(config, splits, counts, sizes, splits[kinds[0]].manifest.statistics)


def seen(name, batch):
    """What a network and a loss see of each sample: (stream, position) -> key and bytes."""
    tensors = (batch.image, batch.mask, batch.label, batch.weight, batch.rng_key)
    return {
        (name, position): (batch.keys[place], *(tensor[place].numpy().tobytes() for tensor in tensors))
        for place, position in enumerate(batch.position.tolist())
    }


def global_batches(streams, first, steps):
    """The samples of some steps, read one after the other, without ranks, micro batches and loader."""
    positions = range(first * SLOTS, (first + steps) * SLOTS)
    found = {}
    for name, stream in streams.items():
        found |= seen(name, collate(stream, [stream.sample(position) for position in positions], positions))
    return found


def taken(streams, ranks, first, steps, accumulation=1, workers=0):
    """What all ranks of a world take in some steps."""
    found = {}
    for rank in range(ranks):
        own = pickle.loads(pickle.dumps(streams))  # as in a process of its own
        rank_batch, start = (
            RankBatch(rank, ranks, accumulation, dict.fromkeys(own, SLOTS)),
            dict.fromkeys(own, first * SLOTS),
        )
        requests = [request for step in range(steps) for request in rank_batch.micro_batches(step, start)]
        for batches in load(own, requests, collate, workers):
            for name, batch in batches.items():
                of_rank = seen(name, batch)
                assert not of_rank.keys() & found.keys()
                found |= of_rank
    return found


@pytest.mark.parametrize("ranks", RANKS)
@given(
    kinds=st.lists(st.sampled_from(sorted(STREAMS)), min_size=1, max_size=2, unique=True),
    seed=st.integers(0, 2**40),
    window=st.integers(1, 9),
    first=st.integers(0, 2000),
    accumulation=st.sampled_from([1, 3]),
)
@settings(max_examples=12, deadline=None)
def test_ranks_and_micro_batches_change_no_sample(data, ranks, kinds, seed, window, first, accumulation):
    accumulation = accumulation if SLOTS // ranks % accumulation == 0 else 1
    found = taken(streams_of(data, kinds, seed, window), ranks, first, 2, accumulation)
    assert found == global_batches(streams_of(data, kinds, seed, window), first, 2)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_start_in_mid_epoch_is_the_tail_of_an_undisturbed_run(data, kind):
    whole = taken(streams_of(data, [kind]), 2, 0, 5)
    for first, ranks in ((1, 4), (4, 3)):
        tail = taken(streams_of(data, [kind]), ranks, first, 5 - first)
        assert tail == {place: sample for place, sample in whole.items() if place[1] >= first * SLOTS}
        assert len(tail) == (5 - first) * SLOTS


@pytest.mark.parametrize("kind", ["once", "joined", "labelled", "unlabelled", "listed", "all but the listed"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_each_sample_stands_once_in_every_epoch(data, kind, ranks):
    streams = streams_of(data, [kind])
    keys = streams[kind].split.keys()
    for epochs in (1, 2, 3):
        # What does not divide by the slots is carried to the head of the next epoch.
        steps = epochs * len(keys) // SLOTS
        counts = Counter(key for key, *_ in taken(streams, ranks, 0, steps).values())
        passes, more = divmod(steps * SLOTS, len(keys))
        assert sorted(counts[key] for key in keys) == [passes] * (len(keys) - more) + [passes + 1] * more


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_no_sample_on_any_number_of_ranks(data, workers):
    streams = streams_of(data, ["labelled, joined by weight", "all but the listed"], seed=7)
    expected = global_batches(streams, 3, 2)
    for ranks in RANKS:
        assert taken(streams, ranks, 3, 2, workers=workers) == expected
