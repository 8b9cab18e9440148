"""Sums before ratios: means and ratios of the global batch, however it is cut into ranks and micro batches."""

import pytest
import torch

from global_sums import FACTORS, class_sums, dice, mean_loss, on_this_rank
from uml_dist.distributed.global_batch import GlobalBatch, sum_over_ranks
from worlds import run_world


def whole_of(*counts: int) -> GlobalBatch:
    return GlobalBatch([{"labelled": torch.tensor(count), "other": torch.tensor(1)} for count in counts])


def test_counts_are_summed_over_micro_batches():
    whole = whole_of(3, 0, 2)
    assert whole.count("labelled").item() == 5.0
    assert whole.count("other").item() == 3.0
    assert whole.count("labelled").dtype == torch.float32
    assert (whole.accumulation, whole.ranks) == (3, 1)


def test_micro_batches_average_to_the_mean_of_all_their_samples():
    parts = [torch.tensor([1.0, 2.0, 6.0]), torch.tensor([7.0])]
    whole = whole_of(3, 1)
    shares = [whole.mean(part.sum(), "labelled") for part in parts]
    # 9 * 2 / 4 and 7 * 2 / 4; their mean is 16 / 4, not the mean (3 + 7) / 2 of the means.
    assert [share.item() for share in shares] == [4.5, 3.5]


def test_gradients_average_to_that_of_the_mean_of_all_samples():
    parts = [torch.tensor([1.0, 2.0, 6.0]), torch.tensor([7.0])]
    whole = whole_of(3, 1)
    factor = torch.tensor(2.0, requires_grad=True)
    for part in parts:
        (whole.mean((factor * part).square().sum(), "labelled") / 2).backward()
    assert factor.grad.item() == pytest.approx(2 * 2.0 * (1 + 4 + 36 + 49) / 4)


def test_nothing_to_count_is_zero_and_still_in_the_graph():
    factor = torch.tensor(2.0, requires_grad=True)
    mean = whole_of(0).mean((factor * torch.zeros(3)).sum(), "labelled")
    mean.backward()
    assert mean.item() == 0.0
    assert factor.grad.item() == 0.0


def test_a_rank_alone_is_the_world():
    tensor = torch.ones(2, 3, requires_grad=True)
    assert sum_over_ranks(tensor) is tensor
    assert whole_of(1).total(tensor) is tensor


def test_a_ratio_of_sums_is_refused_where_the_step_accumulates():
    with pytest.raises(RuntimeError, match="cannot be accumulated"):
        whole_of(1, 1).total(torch.ones(()))


def of_all_samples(parts):
    """The same in one process: no ranks, no micro batches."""
    samples = torch.tensor([x for rank in parts for micro in rank for x in micro], dtype=torch.float64)
    answers = {}
    for name, loss in {
        "mean": lambda f: mean_loss(f, samples) / len(samples),
        "dice": lambda f: dice(class_sums(f, samples)),
    }.items():
        factors = torch.tensor(FACTORS, dtype=torch.float64, requires_grad=True)
        value = loss(factors)
        value.backward()
        answers[name] = ([value.item()], factors.grad.tolist())
    return answers


@pytest.mark.distributed
@pytest.mark.parametrize(
    "parts",
    [
        [[[0.5, -1.0, 2.0]], [[3.0]]],
        [[[1.5, -0.5]], [[]]],
        [[[0.5, -1.0], [2.0]], [[3.0], []]],
    ],
    ids=["uneven", "a rank without samples", "accumulated"],
)
def test_on_two_ranks_values_and_gradients_are_those_of_the_global_batch(parts):
    expected = of_all_samples(parts)
    for answers in run_world(2, on_this_rank, parts):
        assert answers["count"] == ([sum(len(micro) for rank in parts for micro in rank)], [])
        for name in set(answers) & set(expected):
            for found, wanted in zip(answers[name], expected[name], strict=True):
                assert found == pytest.approx(wanted, rel=1e-12), name
