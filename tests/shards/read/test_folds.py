"""Folds drawn when splits are opened: complete, disjoint, stratified, by patient, whatever the order of the samples."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uml_shards import ShardError, open_split
from uml_shards.importers import Importer, Options, Source
from uml_shards.read import split as splits
from uml_shards.read.folds import Fold, deal, draw_folds, held_out_fold, strata_of
from uml_shards.read.part import part_of
from uml_shards.read.samples import Samples
from uml_shards.sources.encode import encode_grey, encode_image, encode_json
from uml_shards.write.writer import write_split

seeds = st.integers(0, 2**63 - 1)
units = st.tuples(st.sampled_from(["patient", "key"]), st.text(max_size=5))
strata = st.tuples(st.integers(-1, 3), st.integers(0, 1))


@settings(max_examples=50)
@given(st.dictionaries(units, strata, min_size=1, max_size=30), st.integers(2, 7), seeds)
def test_folds_are_complete_even_in_every_stratum_and_independent_of_the_order(strata, folds, seed):
    drawn = deal(strata, folds, seed)
    assert drawn.keys() == strata.keys()
    assert deal(dict(reversed(strata.items())), folds, seed) == drawn
    groups = [strata, *({unit for unit, one in strata.items() if one == stratum} for stratum in set(strata.values()))]
    groups += [{unit for unit, one in strata.items() if one[0] == label} for label in range(-1, 4)]
    for group in groups:
        counts = Counter(drawn[unit] for unit in group)
        shares = [counts[fold] for fold in range(folds)]
        assert max(shares) - min(shares) <= 1


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 2), st.booleans())))
def test_a_patient_has_its_most_frequent_label_the_highest_of_equally_frequent_ones_and_any_mask(samples):
    owners = [("patient", str(patient)) for patient, _, _ in samples]
    found = strata_of(owners, [label for _, label, _ in samples], [masked for _, _, masked in samples])
    assert set(found) == set(owners)
    for unit, (label, masked) in found.items():
        own = [sample for owner, sample in zip(owners, samples, strict=True) if owner == unit]
        labels = [one for _, one, _ in own if one >= 0]
        assert masked == any(has_mask for _, _, has_mask in own)
        assert label == max(labels, key=lambda one: (labels.count(one), one), default=-1)


def test_seeds_give_different_folds():
    strata = {("key", str(number)): 0 for number in range(300)}
    one, other = (deal(strata, 3, seed) for seed in (0, 1))
    equal = sum(one[unit] == other[unit] for unit in strata)
    assert 60 < equal < 140  # 100 are expected, with a deviation of 8


def test_published_draw_does_not_change():
    """Any change would move samples between the folds of runs that are compared with earlier ones."""
    drawn = deal({("patient", name): 0 for name in "ABCDEF"}, 3, 0)
    assert [drawn["patient", name] for name in "ABCDEF"] == [1, 2, 0, 2, 0, 1]


class Visits(Importer):
    """Small images, an item for each: (key, patient or None, label or None, whether it has a mask)."""

    name = summary = licence = source = where = tree = "visits"
    default_size, needs_raw = 0, False
    items: tuple = ()

    def splits(self):
        return {"train": Source(self.items, classes=("no", "mild", "severe"), mask_classes=("background", "lesion"))}

    def encode(self, item):
        key, patient, label, masked = item
        extension, image = encode_image(np.full((8, 8, 3), sum(map(ord, key)) % 256, dtype=np.uint8), True)
        components = {extension: image, "json": encode_json(label, {} if patient is None else {"patient": patient})}
        return key, components | ({"mask.png": encode_grey(np.ones((8, 8), dtype=np.uint8))} if masked else {})


def write(folder, items):
    importer = Visits(options=Options())
    importer.items = tuple(items)
    write_split(importer, "train", importer.splits()["train"], folder / "train", samples_per_shard=7, quiet=True)
    return open_split(folder / "train")


def visits(patients, prefix="", first=0):
    """Up to three images of each patient, and as many without one."""
    for number in range(first, first + patients):
        label = number % 3
        for visit in range(1 + number % 3):
            yield f"{prefix}{number}-{visit}", f"P{number}", label, visit == 0
        yield f"{prefix}alone-{number}", None, None if number % 4 == 0 else label, number % 2 == 0


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return write(tmp_path_factory.mktemp("first"), visits(24))


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """Other images, of patients of whom half are in `first`."""
    return write(tmp_path_factory.mktemp("second"), visits(24, "other-", first=12))


def fold_by_key(split, drawn):
    return dict(zip(split.keys(), drawn.tolist(), strict=True))


def test_folds_of_a_split_are_stratified_and_keep_patients_together(first):
    (drawn,) = draw_folds([first], 3)
    owners = [patient or key for key, patient in first.cases()]
    labels = first.labels()
    of_owner = dict(zip(owners, drawn.tolist(), strict=True))
    assert [of_owner[owner] for owner in owners] == drawn.tolist()
    for label in range(3):
        members = {owner for owner, one in zip(owners, labels, strict=True) if one == label}
        counts = Counter(of_owner[owner] for owner in members)
        assert max(counts.values()) - min(counts[fold] for fold in range(3)) <= 1


def test_folds_do_not_depend_on_the_order_of_the_samples_or_on_their_place(first, tmp_path):
    again = write(tmp_path, reversed(list(visits(24))))
    assert fold_by_key(again, draw_folds([again], 4, 5)[0]) == fold_by_key(first, draw_folds([first], 4, 5)[0])


def test_a_patient_is_in_the_same_fold_in_every_split(first, second):
    drawn = draw_folds([first, second, first], 3)
    assert (drawn[0] == drawn[2]).all()
    folds = [
        {patient: fold for (_, patient), fold in zip(split.cases(), found.tolist(), strict=True) if patient}
        for split, found in zip((first, second), drawn[:2], strict=True)
    ]
    shared = folds[0].keys() & folds[1].keys()
    assert len(shared) == 12
    assert all(folds[0][patient] == folds[1][patient] for patient in shared)
    assert len({folds[0][patient] for patient in shared}) == 3


def test_no_image_is_decoded(first, monkeypatch):
    monkeypatch.setattr(splits, "decode_sample", None)
    monkeypatch.setattr(splits, "read_components", None)
    assert sorted(set(draw_folds([first], 3)[0])) == [0, 1, 2]


def test_held_out_and_training_samples_complete_each_other(first, second):
    whole = Samples([first, second])
    drawn = np.concatenate(draw_folds([first, second], 3))
    held_out = []
    for number in range(3):
        fold = Fold(3, number)
        inside, outside = fold.held_out(whole, drawn), fold.training(whole, drawn)
        assert sorted(inside.keys() + outside.keys()) == sorted(whole.keys())
        assert not set(inside.patients()) & set(outside.patients()) - {""}
        assert inside.manifest.samples == len(inside)
        assert sum(inside.manifest.class_counts) == inside.manifest.labelled
        assert sum(inside.sizes()) == len(inside)
        held_out += inside.keys()
    assert sorted(held_out) == sorted(whole.keys())


def test_parts_lose_the_same_samples(first, tmp_path):
    whole, fold = Samples([first]), Fold(3, 1)
    (drawn,) = draw_folds([first], 3)
    ids = tmp_path / "labelled.txt"
    listed = [key for key, masked in zip(whole.keys(), whole.masked(), strict=True) if masked][::2]
    ids.write_text("\n".join(listed))
    left_out = set(fold.held_out(whole, drawn).keys())
    for name in ("labelled", "unlabelled"):
        part = part_of(whole, name, ids)
        training = fold.training(part, drawn)
        assert training.keys() == tuple(key for key in part.keys() if key not in left_out)
        assert [training.read(number).key for number in range(len(training))] == list(training.keys())
        assert training.manifest.samples == len(training)


def test_manifests_state_the_fold(first):
    whole, (drawn,) = Samples([first]), draw_folds([first], 3, 7)
    parts = [Fold(3, 0, 7).held_out(whole, drawn), Fold(3, 0, 7).training(whole, drawn)]
    assert [part.manifest.split for part in parts] == ["train-fold-0-of-3", "train"]
    assert held_out_fold(parts[0].manifest) == (Fold(3, 0, 7), first.digest)
    assert held_out_fold(parts[1].manifest) is None
    assert held_out_fold(first.manifest) is None
    assert held_out_fold(first.manifest.model_copy(update={"options": {"drawn_fold": {"held_out": True}}})) is None
    digests = {Fold(3, fold, 7).training(whole, drawn).digest for fold in range(3)} | {part.digest for part in parts}
    assert len(digests) == 4  # of three trainings and a fold
    stored = type(parts[0].manifest).model_validate(json.loads(parts[0].manifest.model_dump_json()))
    assert stored.digest == parts[0].digest


@pytest.mark.parametrize(
    ("items", "folds", "message"),
    [
        (list(visits(1)), 3, "2 patients, or samples without one, cannot be divided into 3 folds: use fewer"),
        (
            [(str(n), None, int(n < 3), False) for n in range(9)],
            4,
            "fold . of 4 has no sample of class mild, since too few patients have one: use fewer",
        ),
        ([(str(n), None, None, n < 2) for n in range(9)], 3, "fold . of 3 has no sample with a mask"),
    ],
)
def test_folds_that_cannot_be_drawn_are_refused_in_one_line(items, folds, message, tmp_path):
    with pytest.raises(ShardError, match=message) as raised:
        draw_folds([write(tmp_path, items)], folds)
    assert "\n" not in str(raised.value)


def test_a_part_that_the_fold_takes_whole_is_refused(first, tmp_path):
    whole, (drawn,) = Samples([first]), draw_folds([first], 3)
    ids = tmp_path / "labelled.txt"
    ids.write_text(Fold(3, 2).held_out(whole, drawn).keys()[0])
    with pytest.raises(ShardError, match="no sample of the part is outside fold 2 of 3: use another fold"):
        Fold(3, 2).training(part_of(whole, "labelled", ids), drawn)
