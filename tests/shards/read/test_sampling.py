"""Tests of weighted plans: proportions are exact, groups follow their own plans, nothing depends on ranks."""

import pickle
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uml_shards.errors import ShardError
from uml_shards.read.plan import Plan, owned_slots
from uml_shards.read.sampling import BLOCK, Group, WeightedPlan, groups_of_classes, groups_of_sets

sets = st.lists(
    st.tuples(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 9)), min_size=1, max_size=4
)


def planned(drawn, slots, seed=0, **options) -> WeightedPlan:
    sizes, weights = zip(*drawn, strict=True)
    return WeightedPlan(groups_of_sets(sizes, weights), slots, seed, **options)


def group_of(plan: WeightedPlan, number: int) -> int:
    return next(i for i, group in enumerate(plan.groups) if number in group.numbers)


@given(sets, st.integers(1, 12), st.integers(0, 2**40))
@settings(max_examples=15, deadline=None)
def test_every_slot_draws_from_each_group_by_its_weight(drawn, slots, seed):
    plan = planned(drawn, slots, seed)
    wanted = np.asarray([weight for _, weight in drawn]) / sum(weight for _, weight in drawn) * BLOCK
    for slot in {0, slots - 1}:
        for block in (0, 3):
            steps = range(block * BLOCK, (block + 1) * BLOCK)
            counts = Counter(group_of(plan, plan.sample(step * slots + slot)) for step in steps)
            assert all(abs(counts[group] - share) < 1 for group, share in enumerate(wanted))


@given(sets, st.integers(1, 40), st.integers(0, 2**40), st.integers(0, 5000))
@settings(max_examples=40, deadline=None)
def test_every_global_batch_contains_the_groups_in_their_proportions(drawn, slots, seed, step):
    plan = planned(drawn, slots, seed)
    counts = Counter(group_of(plan, plan.sample(step * slots + slot)) for slot in range(slots))
    for group, (_, weight) in enumerate(drawn):
        assert abs(counts[group] - slots * weight / sum(weight for _, weight in drawn)) < 2


@given(sets, st.integers(1, 6), st.integers(0, 2**40))
@settings(max_examples=8, deadline=None)
def test_complete_blocks_follow_the_plan_of_each_group(drawn, slots, seed):
    plan = planned(drawn, slots, seed)
    given_ = Counter(plan.sample(position) for position in range(BLOCK * slots))
    for group in plan.groups:
        own = Plan([size for size in group.shard_samples if size], slots, seed, f"train/{group.name}")
        draws = sum(given_[int(number)] for number in group.numbers)
        assert draws % slots == 0
        assert {int(number): given_[int(number)] for number in group.numbers if given_[int(number)]} == Counter(
            int(group.numbers[own.sample(position)]) for position in range(draws)
        )


@given(sets, st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([0, 1, 3]), st.integers(0, 3000), st.data())
@settings(max_examples=40, deadline=None)
def test_sampling_does_not_depend_on_ranks_workers_or_resume(drawn, ranks, workers, first, data):
    slots = 24
    whole = planned(drawn, slots)
    expected = [[whole.sample(step * slots + slot) for slot in range(slots)] for step in range(first, first + 3)]
    shares = []
    for rank in range(ranks):
        readers = [pickle.loads(pickle.dumps(planned(drawn, slots))) for _ in range(max(workers, 1))]
        requests = [
            [step * slots + slot for slot in owned_slots(slots, rank, ranks)] for step in range(first, first + 3)
        ]
        order = data.draw(st.permutations(range(3)))
        answers = {i: [readers[i % len(readers)].sample(position) for position in requests[i]] for i in order}
        shares.append([answers[i] for i in range(3)])
    assert [list(chain.from_iterable(share[i] for share in shares)) for i in range(3)] == expected


def test_balanced_classes_occur_equally_often_and_unlabelled_keep_their_share():
    labels = [0] * 70 + [1] * 8 + [2] * 2 + [-1] * 20
    groups = groups_of_classes(labels, [50, 50], ("nevus", "melanoma", "keratosis", "empty"), "balanced")
    plan = WeightedPlan(groups, slots=10, seed=4)
    counts = Counter(labels[plan.sample(position)] for position in range(10 * BLOCK))
    assert {label: count / BLOCK for label, count in counts.items()} == pytest.approx(
        {0: 8 / 3, 1: 8 / 3, 2: 8 / 3, -1: 2}, abs=0.02
    )


def test_classes_are_drawn_by_weight_and_classes_without_weight_are_not_drawn():
    labels = [0, 1, 2] * 30
    plan = WeightedPlan(groups_of_classes(labels, [90], ("a", "b", "c"), {"a": 3, "b": 1}), slots=4)
    counts = Counter(labels[plan.sample(position)] for position in range(4 * BLOCK))
    assert counts == {0: 3 * BLOCK, 1: BLOCK}


def test_a_rank_reads_from_its_part_of_the_shards_of_each_group():
    labels = np.tile([0, 1], 800)
    plan = WeightedPlan(groups_of_classes(labels, [100] * 16, ("a", "b"), "balanced"), slots=16)
    one_pass = plan.samples // 16
    shards = {plan.sample(step * 16 + slot) // 100 for step in range(one_pass // 2) for slot in owned_slots(16, 0, 4)}
    assert len(shards) <= 10


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([], "at least"),
        ([Group("a", np.arange(3), [3], -1.0)], "no sampling weight may be negative"),
        ([Group("a", np.arange(3), [3], float("nan"))], "no sampling weight may be negative"),
        ([Group("a", np.arange(3), [3], 1.0), Group("b", np.arange(0), [], 1.0)], "b has a sampling weight but no"),
        ([Group("a", np.arange(3), [3], 1e6), Group("b", np.arange(3, 4), [1], 1.0)], "weight of b is below"),
    ],
)
def test_invalid_weights_are_refused(groups, message):
    with pytest.raises(ShardError, match=message):
        WeightedPlan(groups, slots=2)


def test_missing_labels_and_invalid_class_weights_are_refused():
    with pytest.raises(ShardError, match="needs labels"):
        groups_of_classes([-1, -1], [2], ("a", "b"), "balanced")
    with pytest.raises(ShardError, match="gives a weight to 'c': the classes are a, b"):
        groups_of_classes([0, 1], [2], ("a", "b"), {"c": 1.0})
    for weights in ({"a": -1.0}, {"a": 0.0}, {}, {"a": float("nan")}):
        with pytest.raises(ShardError, match="no weight may be negative"):
            groups_of_classes([0, 1], [2], ("a", "b"), weights)
