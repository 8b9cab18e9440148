"""Tests of splits by patient: a pure function of seed and patient, with the requested fractions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uml_shards import ShardError
from uml_shards.importers.partition import Partition, refuse_shared, split_patients

PATIENTS = [f"patient {number}" for number in range(4000)]

names = st.text(min_size=1, max_size=12)
seeds = st.integers(-(2**40), 2**40)


def members(partition: Partition, split: str) -> set[str]:
    return {patient for patient in PATIENTS if partition.split_of(patient) == split}


@given(st.sets(names, min_size=1), st.sets(names), seeds)
def test_new_patients_do_not_move_existing_ones(old, new, seed):
    partition = Partition(seed, val=0.3, test=0.3)
    before = {patient: partition.split_of(patient) for patient in old}
    after = {patient: Partition(seed, val=0.3, test=0.3).split_of(patient) for patient in old | new}
    assert {patient: after[patient] for patient in old} == before


@given(st.lists(names, min_size=1), seeds, st.integers(2, 6))
def test_every_patient_is_val_in_one_fold_or_test_in_all(patients, seed, folds):
    for patient in patients:
        found = [Partition(seed, test=0.2, folds=folds, fold=fold).split_of(patient) for fold in range(folds)]
        assert sorted(found) in (["test"] * folds, ["train"] * (folds - 1) + ["val"])


@pytest.mark.parametrize(
    "partition", [Partition(), Partition(5, 0.4, 0.1), Partition(1, 0, 0.5), Partition(2, test=0.1, folds=3, fold=2)]
)
def test_splits_have_the_requested_fractions(partition):
    for split, share in partition.shares.items():
        # Four standard deviations of a binomial count.
        assert abs(len(members(partition, split)) - 4000 * share) <= 4 * (4000 * share * (1 - share)) ** 0.5


def test_the_test_set_is_the_same_with_other_values_of_val_and_in_folds():
    test = members(Partition(7, val=0.1, test=0.2), "test")
    assert members(Partition(7, val=0.5, test=0.2), "test") == test
    assert members(Partition(7, test=0.2, folds=4, fold=1), "test") == test


def test_different_seeds_give_different_draws():
    val, other = (members(Partition(seed, val=0.5, test=0), "val") for seed in (0, 1))
    # Of 2000 in each, half are expected in both; the standard deviation is 22.
    assert 880 < len(val & other) < 1120


def test_published_draw_does_not_change():
    """Compare with the draw of the first version: any change would move patients of existing shards between splits."""
    found = {patient: Partition(0, 0.25, 0.25).split_of(patient) for patient in ("A", "B", "C", "D", "Ä")}
    assert found == {"A": "train", "B": "train", "C": "test", "D": "train", "Ä": "val"}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"val": -0.1}, "fractions must be from 0 to 1"),
        ({"val": 0.6, "test": 0.5}, "with a sum of at most 1"),
        ({"val": float("nan")}, "fractions must be from 0 to 1"),
        ({"folds": 1}, "folds=1: use 2 or more"),
        ({"folds": 3, "fold": 3}, "fold=3: with folds=3 use 0 to 2"),
        ({"fold": 1}, "fold=1: with folds=0 use 0 to 0"),
    ],
)
def test_invalid_fractions_are_refused(wrong, reason):
    with pytest.raises(ShardError, match=reason):
        Partition(**wrong)


def test_fractions_that_sum_to_one_leave_train_empty():
    assert Partition(val=0.7, test=0.3).shares["train"] == pytest.approx(0)
    assert members(Partition(val=0.7, test=0.3), "train") == set()


def test_empty_split_is_refused():
    with pytest.raises(ShardError, match=r"none of 2 patients is drawn for .*: use another seed"):
        split_patients(["A", "B"], Partition())
    assert split_patients(["A", "B", "A"], Partition(val=0, test=0)) == {"A": "train", "B": "train"}


def test_patients_in_two_splits_are_named():
    refuse_shared({"train": ["A", "B", "A"], "val": ["C"], "test": []})
    with pytest.raises(ShardError, match="2 patients are in both train and test, first 'A'"):
        refuse_shared({"train": ["B", "A"], "val": ["C"], "test": ["A", "B"]})
