"""The watchdog's look at a rank, in a real world."""

import pytest

from worldly import wait_seen_by_another_thread
from worlds import run_world

pytestmark = [pytest.mark.distributed, pytest.mark.fault]


def test_a_rank_inside_a_collective_waits_and_one_outside_does_not():
    assert run_world(2, wait_seen_by_another_thread) == [True, False]
