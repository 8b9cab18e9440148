"""Two nodes in network namespaces, whose link is cut, delays packets, or loses some."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from nodes import Nodes
from worlds import free_port

pytestmark = [pytest.mark.chaos, pytest.mark.fault]

NAMES = [f"uml{os.getpid()}{letter}" for letter in "ab"]
ADDRESSES = ("10.77.0.1", "10.77.0.2")
WITHIN = [(("ip", "netns", "exec", name), name) for name in NAMES]
"""The interfaces have the names of their namespaces."""


def ip(*words: str) -> None:
    """Call `ip`, or skip the test where that is not permitted."""
    if shutil.which("ip") is None:
        pytest.skip("the program `ip` is missing: install iproute2")
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"ip {' '.join(words)}: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def link() -> Iterator[None]:
    """Two namespaces that a cable connects."""
    try:
        for name in NAMES:
            ip("netns", "add", name)
        ip("link", "add", NAMES[0], "netns", NAMES[0], "type", "veth", "peer", "name", NAMES[1], "netns", NAMES[1])
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", name)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", name, "up")
        yield
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def pull(state: str) -> None:
    """Cut the link (`down`), or connect it again (`up`)."""
    ip("-n", NAMES[1], "link", "set", NAMES[1], state)


@pytest.fixture
def start(link, partly_known, tmp_path):
    """Return a function that starts or resumes the training."""
    started: list[Nodes] = []

    def begin() -> Nodes:
        words = ("faults.step_seconds=15", "faults.pause_seconds=120", "checkpoint.every=2")
        started.append(Nodes(tmp_path, partly_known, (ADDRESSES[0], free_port()), words, WITHIN))
        return started[-1]

    yield begin
    for training in started:
        training.kill()


def test_a_short_cut_is_survived_and_after_a_long_one_the_run_is_resumed(start):
    training = start()
    training.wait_for_step(3)
    pull("down")
    time.sleep(5)
    pull("up")
    training.wait_for_step(training.last_step() + 5)
    pull("down")
    codes = [node.wait(300) for node in training.nodes]
    pull("up")
    assert 0 not in codes
    assert training.status()["status"] == "failed"
    assert "all ranks wait for each other" in training.status()["reason"]
    before = training.last_step()
    resumed = start()
    resumed.wait_for_step(before + 3)
    resumed.rank_of(1).send_signal(signal.SIGUSR1)
    for node in resumed.nodes:
        node.wait(300)
    assert resumed.status()["status"] == "stopped"
    assert resumed.logs[0].read_text().count("resumed at step") == 1


@pytest.mark.parametrize("trouble", [("delay", "20ms", "5ms"), ("loss", "2%")], ids=lambda words: words[0])
def test_delays_and_lost_packets_are_survived(trouble, start):
    done = subprocess.run(
        ["ip", "netns", "exec", NAMES[0], "tc", "qdisc", "add", "dev", NAMES[0], "root", "netem", *trouble],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        pytest.skip(f"tc netem: {done.stderr.strip()}")
    try:
        training = start()
        training.wait_for_step(5)
        training.rank_of(1).send_signal(signal.SIGUSR1)
        for node in training.nodes:
            node.wait(300)
        assert training.status()["status"] == "stopped"
    finally:
        subprocess.run(["ip", "netns", "exec", NAMES[0], "tc", "qdisc", "del", "dev", NAMES[0], "root"], check=True)
