"""The sum over the bits of weights, and which ranks are odd."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from uml_dist.train.canary import checksum, odd_ranks


@given(st.integers(0, 31), st.integers(0, 29), st.booleans())
def test_each_bit_of_each_weight_counts(bit, place, of_second):
    module = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 5))
    before = checksum(module)
    assert checksum(module) == before
    weight = module[int(of_second)].weight.detach().view(torch.int32).flatten()
    weight[place] ^= torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int32)
    assert checksum(module) != before


@pytest.mark.parametrize(
    ("sums", "odd"),
    [([5, 5], []), ([5], []), ([5, 6, 5], [1]), ([6, 5, 5, 5], [0]), ([5, 6], [0, 1]), ([5, 5, 6, 6], [0, 1, 2, 3])],
)
def test_the_majority_is_right_and_without_one_nobody_is(sums, odd):
    assert odd_ranks(sums) == odd
