"""Runs that hold out a fold: what each stream reads, what validates, and settings that are refused."""

import numpy as np
import pytest

from runs import make_partly_known, uml_tree
from shard_server import ShardServer, serving
from uml_dist.config.loading import apply_overrides, validate
from uml_dist.errors import UmlError
from uml_dist.run.data import evaluated_split, open_splits
from uml_dist.train.setup import prepare
from uml_shards import ShardError, open_split

FOLDS = ("data.folds=3", "data.fold=1")


def setup_of(shards, *words, ranks=1):
    return prepare(config_of(shards, *words), ranks)


def config_of(shards, *words):
    return validate(apply_overrides(uml_tree(shards), list(words)), "run.toml")


def two_streams(shards, *words):
    """Return the configuration of a recipe that learns from labelled and unlabelled samples of one split."""
    streams = {name: {"shards": str(shards), "count": 8, "part": name} for name in ("labelled", "unlabelled")}
    tree = {"recipe": "toy", "streams": streams, "train": {"steps": 2, "best": "accuracy"}}
    return validate(apply_overrides(tree, list(words)), "run.toml")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A second data set of the same classes; its keys are also in the first."""
    return make_partly_known(tmp_path_factory.mktemp("other"), samples=40)


def test_the_held_out_fold_validates_and_training_reads_the_others(partly_known):
    whole = open_split(partly_known / "train")
    held_out = []
    for fold in range(3):
        setup = setup_of(partly_known, "data.folds=3", f"data.fold={fold}")
        (validation,) = setup.validations
        assert setup.config.train.validate_split == "fold"
        assert validation.split.manifest.split == f"train-fold-{fold}-of-3"
        assert setup.notes == (f"fold {fold} of 3 is held out: no stream reads its samples", *setup.recipe.notes)
        assert sorted(setup.splits["train"].keys() + validation.split.keys()) == sorted(whole.keys())
        stream = setup.streams(setup.phases[0][0])["train"]
        epoch = [stream.sample(position).key for position in range(len(setup.splits["train"]))]
        assert sorted(epoch) == sorted(setup.splits["train"].keys())
        held_out += validation.split.keys()
    assert sorted(held_out) == sorted(whole.keys())


def test_a_stated_split_validates_instead(partly_known):
    setup = setup_of(partly_known, *FOLDS, "train.validate_split=val", 'validations.held_out.split="fold"')
    assert [one.split.manifest.split for one in setup.validations] == ["val", "train-fold-1-of-3"]
    assert setup_of(partly_known).config.train.validate_split == "val"


def test_the_configuration_of_a_run_names_its_validation_split_when_it_is_read_again(partly_known):
    config = config_of(partly_known, *FOLDS)
    again = validate(config.model_dump(mode="json", exclude_none=True), "config.toml")
    assert again == config
    assert evaluated_split(config, "fold") == "train-fold-1-of-3"
    assert evaluated_split(config, "test") == "test"
    assert evaluated_split(config_of(partly_known), "fold") == "fold"


def test_no_stream_reads_a_sample_of_the_held_out_fold(partly_known):
    setup = prepare(two_streams(partly_known, *FOLDS), 1)
    held_out = set(setup.validations[0].split.keys())
    parts = [set(setup.splits[name].keys()) for name in ("labelled", "unlabelled")]
    assert not held_out & (parts[0] | parts[1])
    assert held_out | parts[0] | parts[1] == set(open_split(partly_known / "train").keys())
    # The fold has all of its samples, also those that would be read as unlabelled.
    whole = open_splits(two_streams(partly_known))
    assert held_out & set(whole["labelled"].keys())
    assert held_out & set(whole["unlabelled"].keys())


def test_equal_keys_of_several_data_sets_are_in_one_fold_and_all_are_evaluated(partly_known, other):
    setup = setup_of(partly_known, *FOLDS, f'streams.train.more_shards=["{other}"]')
    training, held_out = setup.splits["train"].keys(), setup.validations[0].split.keys()
    assert len(training) + len(held_out) == 96 + 40
    assert not set(training) & set(held_out)
    assert sum(held_out.count(key) == 2 for key in set(held_out)) == sum(
        key in open_split(other / "train").keys() for key in set(held_out)
    )


def test_statistics_of_the_inputs_and_the_folds_are_those_of_the_whole_split_on_any_number_of_ranks(partly_known):
    whole, one, two = (
        setup_of(partly_known, *words, ranks=ranks) for words, ranks in (((), 1), (FOLDS, 1), (FOLDS, 2))
    )
    assert one.statistics == whole.statistics
    assert one.digests == two.digests
    assert one.digests != setup_of(partly_known, *FOLDS, "data.fold_seed=1").digests
    assert (
        setup_of(partly_known, *FOLDS, "streams.train.sampling=balanced").splits["train"].keys()
        == one.splits["train"].keys()
    )


def test_folds_of_shards_behind_a_url_are_those_of_the_folder(partly_known, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(ShardServer(partly_known)) as server:
        remote = open_splits(config_of(server.url, *FOLDS, f"data.cache={tmp_path}"))["train"]
        assert remote.keys() == open_splits(config_of(partly_known, *FOLDS))["train"].keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.folds=1"], "folds = 1 leaves nothing to train on"),
        (["data.folds=3", "data.fold=3"], "fold = 3 is not one of 3 folds: set 0 to 2"),
        (["data.fold=1"], "fold and fold_seed do nothing without folds"),
        (["data.fold_seed=1"], "fold and fold_seed do nothing without folds"),
        (["data.folds=-1"], "data.folds"),
    ],
)
def test_folds_that_do_not_exist_are_refused(partly_known, words, message):
    with pytest.raises(UmlError) as raised:
        config_of(partly_known, *words)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_folds_that_cannot_be_drawn_are_refused_before_any_rank_starts(partly_known):
    with pytest.raises(ShardError, match="96 patients, or samples without one, cannot be divided into 97 folds: use"):
        setup_of(partly_known, "data.folds=97")
    with pytest.raises(ShardError, match=r"fold . of 60 has no sample of class benign, since too few"):
        setup_of(partly_known, "data.folds=60")
    with pytest.raises(ShardError, match="fold does not exist"):
        setup_of(partly_known, "train.validate_split=fold")


def test_classes_are_shared_out_evenly(partly_known):
    setup = setup_of(partly_known, *FOLDS)
    whole, held_out = open_split(partly_known / "train"), setup.validations[0].split
    for label in (-1, 0, 1):
        expected, found = (int(np.sum(split.labels() == label)) for split in (whole, held_out))
        assert abs(found - expected / 3) < 1
