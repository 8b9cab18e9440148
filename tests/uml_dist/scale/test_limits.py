"""What stops a training from using more ranks."""

from uml_dist.scale.limits import batch_limit, efficiency_limit, memory_limit, shard_limit
from uml_dist.scale.model import Prediction


def predicted(ranks: int) -> Prediction:
    """Communication that equals the computation on 8 ranks."""
    compute, communication = 8 / ranks, 1.0 if ranks > 1 else 0.0
    return Prediction(ranks, compute, 0.0, communication, 8 / (ranks * (compute + communication)))


def test_the_global_batch_and_the_shards_of_the_smallest_stream_limit_the_ranks():
    assert batch_limit({"labelled": 4, "unlabelled": 12}).ranks == 5
    assert "streams.labelled.count = 4" in batch_limit({"unlabelled": 12, "labelled": 4}).text
    assert shard_limit({"train": 100}).ranks == 101


def test_memory_is_a_limit_only_where_it_does_not_suffice():
    assert memory_limit(8, 8) is None
    limit = memory_limit(9_000_000_000, 8_000_000_000)
    assert limit is not None
    assert limit.text == "memory: a rank needs 9.0 GB of 8.0 GB"


def test_the_first_power_of_two_below_half_the_efficiency_is_named_with_its_reason():
    limit = efficiency_limit(predicted, 1000)
    assert limit is not None
    assert (limit.ranks, limit.text) == (16, "communication: 67 % of a step of 1.5e+03 ms on 16 ranks")
    assert efficiency_limit(predicted, 8) is None
    assert efficiency_limit(predicted, 1) is None
    last = efficiency_limit(predicted, 12)
    assert last is not None
    assert last.ranks == 12
