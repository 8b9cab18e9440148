"""Streams of several data sets, of weighted classes and of parts, from the configuration to the samples in a batch."""

from collections import Counter

import numpy as np
import pytest

from partial import make_partial
from runs import make_partly_known, uml_tree
from uml_dist.batch import collate
from uml_dist.config.loading import apply_overrides, validate
from uml_dist.errors import UmlError
from uml_dist.recipes import StreamContract
from uml_dist.recipes.uml.recipe import UmlRecipe
from uml_dist.run.data import make_plan, make_streams, open_splits
from uml_dist.train.setup import prepare
from uml_shards import ShardError, open_split
from uml_shards.read.plan import Plan
from uml_shards.read.sampling import BLOCK

SLOTS = 8
LABELLED = "streams.train.part=labelled"
UNLABELLED = "streams.train.part=unlabelled"


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A second data set of the same classes."""
    return make_partly_known(tmp_path_factory.mktemp("other"), samples=40)


def config_of(shards, *words):
    return validate(apply_overrides(uml_tree(shards), list(words)), "run.toml")


def setup_of(shards, *words):
    return prepare(config_of(shards, *words), 1)


def drawn(setup) -> list[int]:
    """The numbers of the samples at the positions of one block."""
    plan = make_plan(setup.config, "train", setup.splits["train"], SLOTS)
    numbers = [plan.sample(position) for position in range(BLOCK * SLOTS)]
    assert None not in numbers
    return numbers


def test_each_sample_once_is_the_default(partly_known):
    setup = setup_of(partly_known)
    assert isinstance(make_plan(setup.config, "train", setup.splits["train"], SLOTS), Plan)


def test_balanced_batches_hold_the_classes_equally_often(partly_known):
    setup = setup_of(partly_known, 'streams.train.sampling="balanced"')
    labels = setup.splits["train"].labels()
    counts = Counter(labels[drawn(setup)].tolist())
    assert abs(counts[0] - counts[1]) <= SLOTS
    assert counts[-1] / (BLOCK * SLOTS) == pytest.approx(float((labels == -1).mean()), abs=1 / BLOCK)


def test_classes_are_drawn_by_name(partly_known):
    setup = setup_of(partly_known, "streams.train.sampling={malignant=3, benign=1}")
    counts = Counter(setup.splits["train"].labels()[drawn(setup)].tolist())
    assert counts[1] / counts[0] == pytest.approx(3, rel=0.01)


def test_samples_of_more_shards_join_and_are_drawn_by_weight(partly_known, other):
    words = [f'streams.train.more_shards=["{other}"]']
    joined = setup_of(partly_known, *words)
    assert joined.splits["train"].manifest.samples == 96 + 40
    assert sorted(drawn(joined)[: 96 + 40]) == list(range(96 + 40))
    weighted = setup_of(partly_known, *words, "streams.train.weights=[1, 3]")
    numbers = np.asarray(drawn(weighted))
    assert (numbers >= 96).mean() == pytest.approx(0.75)
    stream = stream_of(weighted)
    position = int(np.argmax(numbers >= 96))
    expected = weighted.splits["train"].read(int(numbers[position]))
    assert stream.sample(position).key == expected.key
    assert joined.digests != setup_of(partly_known).digests


def write_list(path, keys) -> str:
    path.write_text("\n".join(keys) + "\n")
    return f"streams.train.labelled_ids={path}"


def stream_of(setup):
    return setup.streams(setup.phases[0][0])["train"]


def test_the_two_parts_of_a_stream_share_out_its_samples(partly_known):
    whole, *parts = (
        open_splits(config_of(partly_known, *words))["train"] for words in ((), (LABELLED,), (UNLABELLED,))
    )
    assert sorted(key for part in parts for key in part.keys()) == sorted(whole.keys())
    assert len(parts[0]) == int(whole.masked().sum())


def test_every_sample_of_a_part_stands_once_in_an_epoch(partly_known, tmp_path):
    keys = setup_of(partly_known, LABELLED).splits["train"].keys()[::4]
    setup = setup_of(partly_known, LABELLED, write_list(tmp_path / "labelled.txt", keys))
    stream = stream_of(setup)
    assert setup.sizes == {"train": (32, 32)}
    for epoch in range(2):
        assert sorted(stream.sample(epoch * 16 + place).key for place in range(16)) == sorted(keys)


def test_batches_of_the_unlabelled_have_neither_labels_nor_masks(partly_known, tmp_path):
    keys, known = (setup_of(partly_known, *words).splits["train"].keys() for words in ((), (LABELLED,)))
    config = config_of(partly_known, UNLABELLED, write_list(tmp_path / "labelled.txt", known[:8]))
    splits = open_splits(config)
    statistics = splits["train"].manifest.statistics
    stream = make_streams(config, splits, {"train": SLOTS}, {"train": (32, 32)}, statistics)["train"]
    batch = collate(stream, [stream.sample(place) for place in range(88)], range(88))
    assert (batch.label == -1).all()
    assert (batch.mask == 255).all()
    assert (batch.weight == 1).all()
    assert set(batch.keys) == set(keys) - set(known[:8])


@pytest.mark.parametrize("words", [(), (LABELLED,)])
def test_masks_that_a_recipe_does_not_need_are_never_read(partly_known, monkeypatch, words):
    known = open_splits(config_of(partly_known, *words))["train"]
    monkeypatch.setattr(UmlRecipe, "streams", {"train": StreamContract(labels=True, masks="none")})
    config = config_of(partly_known, *words)
    splits = open_splits(config)
    assert (len(splits["train"]), splits["train"].manifest.masked) == (len(known), 0)
    assert not splits["train"].masked().any()
    stream = make_streams(config, splits, {"train": SLOTS}, {"train": (32, 32)}, known.manifest.statistics)["train"]
    batch = collate(stream, [stream.sample(place) for place in range(64)], range(64))
    assert (batch.mask == 255).all()
    labels = dict(zip(known.keys(), known.labels().tolist(), strict=True))
    assert batch.label.tolist() == [labels[key] for key in batch.keys]
    assert (batch.label >= 0).any()


def test_epochs_are_those_of_the_part(partly_known):
    tree = uml_tree(partly_known)
    del tree["train"]["steps"]
    setup = prepare(validate(apply_overrides(tree, [LABELLED, "train.epochs=3"]), "run.toml"), 1)
    assert setup.steps == 3 * 64 // SLOTS


def test_classes_are_balanced_within_a_part(partly_known):
    setup = setup_of(partly_known, LABELLED, "streams.train.sampling=balanced")
    part = setup.splits["train"]
    numbers = drawn(setup)
    assert set(numbers) == set(range(len(part)))
    counts = Counter(part.labels()[numbers].tolist())
    assert abs(counts[0] - counts[1]) <= SLOTS


def test_parts_of_more_shards_are_drawn_by_weight(partly_known, other):
    words = [f'streams.train.more_shards=["{other}"]', LABELLED]
    joined = setup_of(partly_known, *words, "streams.train.weights=[1, 3]")
    first, second = (len(setup_of(shards, LABELLED).splits["train"]) for shards in (partly_known, other))
    assert len(joined.splits["train"]) == first + second
    assert (np.asarray(drawn(joined)) >= first).mean() == pytest.approx(0.75)


def test_stream_of_pictures_without_names_has_those_of_the_stream_that_it_follows(partly_known, tmp_path):
    bare = make_partial(tmp_path / "bare", split="train")
    streams = {"labelled": {"shards": str(partly_known), "count": 8}, "unlabelled": {"shards": str(bare), "count": 8}}
    tree = {"recipe": "toy", "streams": streams, "train": {"steps": 2, "best": "accuracy"}}
    setup = prepare(validate(tree, "run.toml"), 1)
    first, second = (setup.splits[name].manifest for name in ("labelled", "unlabelled"))
    assert (second.classes, second.mask_classes) == (first.classes, first.mask_classes)
    assert (second.labelled, second.masked) == (0, 0)
    assert open_split(bare / "train").manifest.classes == ()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["streams.train.weights=[1, 2]"], "weights has 2 numbers, shards and more_shards name 1 data sets"),
        (["streams.train.weights=[1]", "streams.train.sampling=balanced"], "exclude each other"),
        (["streams.train.sampling=often"], "streams.train.sampling"),
        (["streams.train.labelled_ids=ids.txt"], "labelled_ids does nothing with part = all"),
        ([UNLABELLED, "streams.train.sampling=balanced"], "withholds the labels that sampling by class needs"),
        (["streams.train.part=labeled"], "streams.train.part"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(partly_known, words, message):
    with pytest.raises(UmlError) as raised:
        setup_of(partly_known, *words)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["streams.train.sampling={melanoma=1}"], "a weight to 'melanoma': the classes are benign, malignant"),
        (['streams.train.more_shards=["absent"]'], "absent/train does not exist"),
        ([LABELLED, "streams.train.labelled_ids=absent.txt"], r"list absent\.txt cannot be read: No such file"),
    ],
)
def test_shards_that_do_not_fit_are_refused_before_any_rank_starts(partly_known, words, message):
    with pytest.raises(ShardError, match=message):
        setup_of(partly_known, *words)
