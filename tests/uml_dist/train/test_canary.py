"""The sum over the bits of weights, which ranks are odd, and forward passes that are repeated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from uml_dist.errors import CorruptionError
from uml_dist.recipes import MicroBatchResult, Progress
from uml_dist.train.canary import Canary, checksum, odd_ranks, tensors_in


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


def progress_of(step: int) -> Progress:
    return Progress(step, 10, "train", step, 10)


def network_of() -> nn.Module:
    """With running statistics, and dropout of torch's generator."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


def train_with(
    around: Callable[..., MicroBatchResult], change: Callable[[int, Any], Any] = lambda call, x: x
) -> list[Any]:
    """Take three steps; losses, gradient and statistics, and the next random number.

    Args:
        around: calls the forward pass.
        change: changes the input of a call, which are numbered.
    """
    network, found = network_of(), []
    calls = iter(range(100))
    for step in range(3):

        def forward() -> MicroBatchResult:
            loss = network(change(next(calls), torch.arange(12.0).reshape(4, 3))).square().sum()
            return MicroBatchResult({"net": loss}, {"loss": loss})

        result = around(forward, {"net": network}, progress_of(step))
        result.losses["net"].backward()
        found.append(result.losses["net"].item())
    gradients = [parameter.grad.tolist() for parameter in network.parameters() if parameter.grad is not None]
    return [found, gradients, [buffer.tolist() for buffer in network.buffers()], torch.rand(1).item()]


def test_repeating_a_forward_pass_changes_neither_statistics_nor_generators_nor_gradients():
    said: list[str] = []
    assert train_with(Canary(1, said.append).around_forward) == train_with(lambda forward, *_: forward())
    assert said == []


def test_a_pass_that_is_not_the_same_again_is_an_error_after_the_first_of_a_phase():
    said: list[str] = []
    with pytest.raises(CorruptionError) as raised:
        train_with(Canary(1, said.append).around_forward, lambda call, x: x * (1 + 1e-3 * (call == 3)))
    assert str(raised.value).startswith("a forward pass of step 2, repeated, gave another result on rank 0: ")
    assert said == []


def test_where_the_first_pass_cannot_be_repeated_that_is_said_once_and_no_other_is_compared():
    said: list[str] = []
    calls = []
    train_with(Canary(1, said.append).around_forward, lambda call, x: calls.append(call) or x * (1 + 1e-3 * call))
    assert said == ["forward passes of phase train cannot be repeated on this device, bit by bit"]
    assert len(calls) == 4


def test_only_the_first_micro_batch_of_every_so_many_steps_is_repeated():
    calls: list[int] = []
    canary = Canary(2)
    for step in (0, 0, 1, 1, 2, 2):
        canary.around_forward(lambda step=step: calls.append(step) or MicroBatchResult({}, {}), {}, progress_of(step))
    assert calls == [0, 0, 0, 1, 1, 2, 2, 2]


def test_the_tensors_of_every_output_are_found():
    @dataclass
    class Output:
        logits: torch.Tensor
        distance: torch.Tensor | None

    one, two = torch.ones(1), torch.zeros(2)
    for output in ([one, two], (one, {"two": two}), Output(one, two), {"out": Output(one, None), "more": [two, 3]}):
        assert list(map(id, tensors_in(output))) == [id(one), id(two)]
