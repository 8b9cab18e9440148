"""Productive seconds and their share of all time, by a clock that the test sets."""

import pytest

from uml_dist.run.history import History
from uml_dist.train.goodput import Goodput

NOW = 1_800_000_000.0


class Clock:
    seconds = 500.0

    def __call__(self) -> float:
        return self.seconds


def test_time_outside_steps_and_between_starts_is_not_productive():
    clock = Clock()
    first = Goodput(History(1, NOW), NOW, clock)
    assert first.ratio() == 0
    clock.seconds += 100
    for _ in range(6):
        first.add(10.0)
    assert (first.productive, first.ratio()) == (60.0, 0.6)
    second = Goodput(History(2, NOW, productive=40.0), NOW + 300, clock)  # a resume repeats two steps
    clock.seconds += 100
    second.add(40.0)
    assert (second.productive, second.ratio()) == (80.0, 0.2)


@pytest.mark.parametrize("back", [1.0, 3600.0, 1e9])
def test_a_clock_that_was_set_back_gives_no_share_above_1(back):
    clock = Clock()
    goodput = Goodput(History(2, NOW, productive=50.0), NOW - back, clock)
    assert goodput.ratio() == 0
    clock.seconds += 10
    assert goodput.ratio() == 1
    clock.seconds += 90
    assert goodput.ratio() == 0.5
