"""When a rank counts as stalled, by a clock that the test sets."""

import time

import pytest

from uml_dist.telemetry.health import PAUSE_SECONDS, STEP_SECONDS, Health


class Rank:
    """A rank at a time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.open: tuple[str, ...] = ()
        self.health = Health(lambda: self.now)
        self.health.watch(lambda: self.open)

    def steps(self, count: int, seconds: float) -> None:
        for _ in range(count):
            self.now += seconds
            self.health.step(7)

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return self.health.check()[0]


@pytest.fixture
def rank() -> Rank:
    return Rank()


def test_a_rank_that_steps_is_healthy(rank):
    rank.steps(3, 0.5)
    rank.now += 0.25
    assert rank.health.check() == (True, "training: step 7 ended 0.2 s ago")


def test_a_rank_may_take_long_to_start_but_not_for_ever(rank):
    assert rank.wait(PAUSE_SECONDS - 1)
    assert rank.health.check()[1] == "starting: no step yet, after 1799.0 s"
    assert not rank.wait(2)


def test_a_rank_without_a_step_for_long_is_stalled_and_recovers(rank):
    rank.steps(20, 0.5)
    assert rank.wait(STEP_SECONDS - 1)
    rank.now += 2
    assert rank.health.check() == (False, "stalled: step 7 ended 61.0 s ago, while a step takes 0.5 s")
    rank.steps(1, 0)
    assert rank.health.check()[0]


def test_slow_steps_are_no_stall(rank):
    rank.steps(20, 30.0)
    assert rank.wait(290)
    assert not rank.wait(11)


def test_one_slow_step_does_not_hide_a_stall(rank):
    rank.steps(1, 900.0)
    rank.steps(20, 0.5)
    rank.steps(1, 900.0)
    assert not rank.wait(STEP_SECONDS + 1)


@pytest.mark.parametrize("pause", ["validation", "checkpoint"])
def test_a_pause_is_no_stall_until_it_is_much_longer_than_the_longest(rank, pause):
    rank.steps(20, 0.5)
    rank.open = ("outer", pause, "inner")
    assert rank.wait(PAUSE_SECONDS - 1)
    assert rank.health.check()[1] == f"{pause}: step 7 ended 1799.0 s ago"
    assert not rank.wait(2)
    rank.open = ()
    rank.steps(1, 0)
    rank.open = (pause,)
    assert rank.wait(10 * PAUSE_SECONDS)
    assert not rank.wait(1000)


def test_the_loader_is_no_pause(rank):
    rank.steps(20, 0.5)
    rank.open = ("data",)
    assert not rank.wait(STEP_SECONDS + 1)


def test_a_clock_that_is_set_does_not_matter(monkeypatch):
    health = Health()
    health.step(1)
    for seconds in (0.0, 1e10):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: seconds)
        health.step(2)
        assert health.check()[0]
