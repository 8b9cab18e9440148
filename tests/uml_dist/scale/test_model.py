"""The model of a step on many ranks; the expected seconds were calculated by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uml_dist.backbones.normalisation import GlobalBatchNorm
from uml_dist.scale.links import Link, Links
from uml_dist.scale.model import SMALL_BYTES, SMALL_REDUCES, Measured, Network, communication, predict
from uml_dist.scale.report import network_of

# 1 ms and 1 GB/s within a machine of 4 ranks, 10 ms and 0.1 GB/s between machines.
LINKS = Links(4, Link(1e-3, 1e9), Link(1e-2, 1e8))
FAST = Links(8, Link(0.0, float("inf")), Link(0.0, float("inf")))
NETWORK = Network(parameters=250_000_000, gathered=200_000_000, modules=10, kept=5, normalisations=3)


def test_an_exchange_takes_one_message_less_than_there_are_ranks():
    assert LINKS.exchange(1, 1e9) == 0.0
    assert LINKS.exchange(2, 1e9) == pytest.approx(0.001 + 0.5)
    assert LINKS.exchange(4, 1e9) == pytest.approx(0.003 + 0.75)


def test_a_ring_over_two_machines_is_as_fast_as_the_link_between_them():
    assert LINKS.exchange(8, 1e9) == pytest.approx(0.07 + 8.75)


def test_small_tensors_are_reduced_along_a_tree_and_large_ones_in_a_ring():
    assert LINKS.all_reduce(4, 1e9) == pytest.approx(2 * 0.753)
    assert LINKS.all_reduce(8, 0.0) == pytest.approx(2 * (2 * 0.001 + 1 * 0.01))


@given(st.integers(1, 5000), st.floats(0, 1e12))
def test_more_bytes_never_take_less_time(ranks, size):
    assert LINKS.all_reduce(ranks, size) <= LINKS.all_reduce(ranks, 2 * size)
    assert LINKS.exchange(ranks, size) <= LINKS.exchange(ranks, 2 * size)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (0, 2 * 0.753),
        (1, 3 * 0.753),
        (2, 3 * 0.753),
        # Ten modules twice, gradients, and the updated weights that every rank keeps, five tensors of 40 MB.
        (3, 20 * (0.003 + 0.06) + 0.753 + 5 * (0.003 + 0.03)),
    ],
)
def test_each_stage_exchanges_what_deepspeed_does(stage, expected):
    # Besides those of every step, each normalisation reduces mean and variance, forward and backward.
    small = (SMALL_REDUCES + 3 * 4) * LINKS.all_reduce(4, SMALL_BYTES)
    assert communication([NETWORK], stage, 4, LINKS) == pytest.approx(expected + small)
    assert communication([NETWORK], stage, 1, LINKS) == 0.0


def test_half_the_samples_take_half_the_time_but_the_update_does_not():
    measured = Measured(ranks=2, samples=8, step=1.0, update=0.2, stage=1)
    one = predict([measured], [NETWORK], 1, 8, 16, FAST, FAST)
    assert (one.compute, one.update, one.communication) == pytest.approx((0.4, 0.2, 0.0))
    assert one.step == pytest.approx(0.6)
    # One rank alone: 16 samples of 0.2 s, and the update.
    assert one.efficiency == pytest.approx((16 * 0.2 + 0.2) / (8 * 0.6))


def test_the_communication_of_the_measured_run_is_subtracted():
    own = communication([NETWORK], 1, 4, LINKS)
    measured = Measured(ranks=4, samples=4, step=own + 1.0, update=0.0, stage=1)
    alone = predict([measured], [NETWORK], 1, 1, 4, LINKS, LINKS)
    assert (alone.step, alone.efficiency) == pytest.approx((4.0, 1.0))
    again = predict([measured], [NETWORK], 1, 4, 4, LINKS, LINKS)
    assert again.step == pytest.approx(measured.step)


def test_two_runs_tell_the_seconds_that_do_not_depend_on_the_samples():
    # 1 s for any batch and 0.5 s for each sample of a rank.
    runs = [Measured(1, 2, 2.25, 0.25, 0), Measured(1, 6, 4.25, 0.25, 0)]
    one = predict(runs, [NETWORK], 0, 4, 16, FAST, FAST)
    assert (one.compute, one.update) == pytest.approx((1 + 4 * 0.5, 0.25))
    assert one.efficiency == pytest.approx((1 + 16 * 0.5 + 0.25) / (4 * 3.25))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ((1.0, 4.0), 2 * 5.0 / 4),  # less than in proportion to the samples: no line through positive seconds
        ((2.0, 1.0), 1.5),  # more samples in less time: they do not matter
        ((2.0, 2.0), 2.0),
    ],
)
def test_noise_never_gives_negative_seconds(seconds, expected):
    runs = [Measured(1, count, one, 0.0, 0) for count, one in zip((1, 3), seconds, strict=True)]
    assert predict(runs, [], 0, 8, 16, FAST, FAST).compute == pytest.approx(expected)


def test_zero_3_is_predicted_from_runs_at_zero_3_where_there_are_any():
    runs = [Measured(1, 1, 1.0, 0.0, 1), Measured(1, 1, 3.0, 0.0, 3)]
    assert [predict(runs, [], stage, 1, 1, FAST, FAST).step for stage in range(4)] == [1.0, 1.0, 1.0, 3.0]
    assert predict(runs[:1], [], 3, 1, 1, FAST, FAST).step == 1.0


def test_a_network_has_the_parameters_that_zero_3_gathers():
    module = torch.nn.Sequential(
        torch.nn.Linear(400, 500), GlobalBatchNorm(2), torch.nn.Linear(3, 4), torch.nn.Linear(500, 400, bias=False)
    )
    assert network_of(module) == Network(200_000 + 500 + 4 + 16 + 200_000, 400_000, 2, kept=5, normalisations=1)
