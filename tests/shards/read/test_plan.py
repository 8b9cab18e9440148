"""Tests of the plan: every sample once, independent of ranks and workers, one integer of state."""

from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uml_shards.errors import ShardError
from uml_shards.read.plan import Plan, owned_slots

shard_samples = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@given(shard_samples, st.integers(1, 24), st.integers(0, 2**40), st.integers(1, 16), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_every_sample_occurs_once_in_each_pass_over_the_data(sizes, slots, seed, window, passes):
    plan = Plan(sizes, slots, seed, window=window)
    places = plan.first_step(passes) * slots
    counts = Counter(plan.sample(position) for position in range(places))
    carried = passes * plan.samples - places
    assert 0 <= carried < slots
    assert max(counts.values(), default=0) <= passes
    if carried <= plan.samples:
        assert all(counts[sample] >= passes - 1 for sample in range(plan.samples))
        assert sum(counts[sample] == passes - 1 for sample in range(plan.samples)) == carried


@given(shard_samples, st.integers(1, 24), st.integers(0, 2**40), st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_epoch_contains_each_sample_once_except_for_carried_samples(sizes, slots, seed, epoch):
    plan = Plan(sizes, slots, seed)
    first, last = plan.first_step(epoch), plan.first_step(epoch + 1)
    seen = [plan.sample(position) for position in range(first * slots, last * slots)]
    head = epoch * plan.samples - first * slots  # carried over from the previous epoch
    assert len(seen) == (last - first) * slots
    assert len(set(seen)) >= len(seen) - head
    if plan.samples % slots == 0:
        assert sorted(seen) == list(range(plan.samples))
    for step in range(first, last):
        assert plan.epoch(step) == epoch


@given(shard_samples, st.integers(1, 24), st.integers(0, 2**40), st.data())
@settings(max_examples=60, deadline=None)
def test_plan_does_not_depend_on_ranks_or_query_order(sizes, slots, seed, data):
    ranks = data.draw(st.sampled_from([number for number in range(1, slots + 1) if slots % number == 0]))
    one = Plan(sizes, slots, seed)
    steps = range(5)
    whole = [[one.sample(step * slots + slot) for slot in range(slots)] for step in steps]
    shares = []
    for rank in range(ranks):
        plan = Plan(sizes, slots, seed)
        positions = [step * slots + slot for step in steps for slot in owned_slots(slots, rank, ranks)]
        order = data.draw(st.permutations(positions))
        answers = {position: plan.sample(position) for position in order}
        shares.append([[answers[step * slots + slot] for slot in owned_slots(slots, rank, ranks)] for step in steps])
    assert [list(chain.from_iterable(share[step] for share in shares)) for step in steps] == whole


@given(shard_samples, st.integers(1, 12), st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_state_is_one_integer(sizes, slots, stop):
    straight = [Plan(sizes, slots, 3).sample(position) for position in range(stop + 20)]
    resumed = Plan(sizes, slots, 3)
    assert [resumed.sample(position) for position in range(stop, stop + 20)] == straight[stop:]


def test_a_rank_stays_in_its_part_of_the_shards():
    plan = Plan([100] * 16, slots=16, seed=1)
    shards_of_first_rank = {
        plan.sample(step * 16 + slot) // 100 for step in range(plan.first_step(1)) for slot in owned_slots(16, 0, 4)
    }
    assert len(shards_of_first_rank) == 4


def test_epochs_seeds_and_streams_differ():
    def order(epoch=0, **change):
        plan = Plan([25] * 8, **{"slots": 10, "seed": 1, "stream": "train", **change})
        places = range(plan.first_step(epoch) * 10, plan.first_step(epoch + 1) * 10)
        return [plan.sample(position) for position in places]

    orders = [order(), order(epoch=1), order(seed=2), order(stream="other"), order(window=1)]
    assert all(sorted(one) == list(range(200)) for one in orders)
    assert len({tuple(one) for one in orders}) == len(orders)


def test_indivisible_slots_error_lists_the_valid_ranks():
    with pytest.raises(ShardError, match=r"12 samples .* 5 ranks: use 1, 2, 3, 4, 6, 12 ranks$"):
        owned_slots(12, 0, 5)


@pytest.mark.parametrize("bad", [{"shard_samples": [0]}, {"slots": 0}, {"window": 0}])
def test_empty_plan_is_refused(bad):
    with pytest.raises(ShardError, match="at least 1"):
        Plan(**{"shard_samples": [3], "slots": 1, **bad})
